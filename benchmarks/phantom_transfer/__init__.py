"""What a model that saw phantoms alone finds on real CT: `python -m benchmarks.phantom_transfer`."""
