"""COVID-CT, a task of single slices: its folds, its runs and their table."""
