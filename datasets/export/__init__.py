"""Masks and findings in the formats of viewers and hospitals."""
