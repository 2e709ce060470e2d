"""Colours that eyes with and without colour blindness tell apart (after Okabe and Ito, "Color Universal Design")."""

from __future__ import annotations

# Lines and bars on white.
SERIES_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#333333", "#cc79a7", "#d55e00")
