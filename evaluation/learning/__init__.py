"""What a model has learned of phantoms, beside chance, blind answers and controls: `python -m evaluation.learning`."""
