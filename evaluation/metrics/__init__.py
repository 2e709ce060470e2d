"""Scores of text, choices, diagnoses and masks, with intervals."""
