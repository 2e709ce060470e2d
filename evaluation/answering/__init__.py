"""Asking a model: one volume, a manifest or a benchmark, over any number of processes."""
