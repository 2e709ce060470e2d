"""Asking a trained model and scoring what it says.

The rooms build on each other: `metrics` (figures), `report` (tables, pictures, the HTML page), `answering` (questions
to predictions.json, and its scoring), `learning` (what the demo's models have learned),
`embed` (embeddings of many CTs).
"""
