"""Metrics, tables, overlays and predictions."""
