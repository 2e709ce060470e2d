"""What this project installs: whether its lock agrees with its ranges, and a bill of materials."""
