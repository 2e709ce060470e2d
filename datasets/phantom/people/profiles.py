"""Quantities that change along the body: values at some heights, read at the height of any voxel.

Reading is a look-up in a table of 1 mm steps, several times faster than interpolation, of which a volume needs dozens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

LOWEST, HIGHEST = -1000, 600  # mm of the standard adult


def rows_of(z: np.ndarray) -> np.ndarray:
    """The row of a table for each height (mm)."""
    rows = z - np.float32(LOWEST - 0.5)
    return np.clip(rows, 0, HIGHEST - LOWEST - 1, out=rows).astype(np.int16)


class Profile:
    """A quantity over height: ``(height, value)`` from bottom to top, smooth between them and constant beyond."""

    def __init__(self, knots: Sequence[tuple[float, float]]) -> None:
        heights, values = np.array(sorted(knots), float).T
        steps = np.clip(np.arange(LOWEST, HIGHEST), heights[0], heights[-1])
        self.table = PchipInterpolator(heights, values)(steps).astype(np.float32)

    @classmethod
    def of_table(cls, table: np.ndarray) -> Profile:
        """From the values at LOWEST, LOWEST + 1, ... mm."""
        made = cls.__new__(cls)
        made.table = np.asarray(table, np.float32)
        return made

    def __add__(self, other: Profile | float) -> Profile:
        return Profile.of_table(self.table + (other.table if isinstance(other, Profile) else np.float32(other)))

    def __mul__(self, factor: float) -> Profile:
        return Profile.of_table(self.table * np.float32(factor))

    def at(self, z: float) -> float:
        """The value at one height (mm)."""
        return float(self.table[int(np.clip(round(z) - LOWEST, 0, len(self.table) - 1))])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The values at `rows_of` heights, float32."""
        return self.table.take(rows)


HEIGHTS = np.arange(LOWEST, HIGHEST, dtype=np.float32)
