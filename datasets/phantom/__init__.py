"""CTs drawn by rule, with masks, labels, reports and questions: `python -m datasets.phantom` writes a data set."""
