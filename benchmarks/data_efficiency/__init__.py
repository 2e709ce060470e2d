"""Held-out Dice against the number of training patients: `python -m benchmarks.data_efficiency`."""
