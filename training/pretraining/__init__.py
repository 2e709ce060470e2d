"""Vision pretraining, the same for every encoder: settings, data, model, and the run that puts them together."""
