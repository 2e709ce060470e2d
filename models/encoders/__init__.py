"""The three vision encoders and the contract that they share."""
