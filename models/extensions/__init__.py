"""What this project adds to the published method; all of it is off in the published recipe."""
