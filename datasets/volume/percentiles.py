"""Percentiles of a whole CT: voxels that are whole numbers are counted, which needs no sorted copy of the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MOST_VALUES = 2**20  # different whole numbers that are counted; a CT has some thousands
_PIECE = 2**18  # voxels counted at a time, few enough to stay near the processor


def percentiles(array: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
    """As ``np.percentile(array, wanted)``, to the last bit, of a float32 array without NaN."""
    counted = _counted(array)
    if counted is None:
        return np.percentile(array, wanted)
    lowest, counts = counted
    reached = counts.cumsum()
    places = (array.size - 1) * np.true_divide(wanted, np.float32(100))  # among the sorted voxels, as numpy has them
    found = []
    for place in places:
        before = int(np.floor(place))
        neighbours = np.searchsorted(reached, (before, min(before + 1, array.size - 1)), side="right") + lowest
        # between the two as numpy goes from one to the other
        found.append(np.quantile(neighbours.astype(np.float32), np.array([place - before]))[0])
    return np.array(found)


def _counted(array: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The lowest voxel, and how many voxels have each whole number from it on; None where others are among them."""
    low, high = float(array.min()), float(array.max())
    if not high - low < _MOST_VALUES or max(abs(low), abs(high)) > 2**24:
        return None
    lowest = int(np.floor(low))
    counts = np.zeros(int(high) - lowest + 2, dtype=np.int64)
    voxels = array.ravel(order="K")  # no copy, whatever the order of the axes
    for start in range(0, voxels.size, _PIECE):
        piece = voxels[start : start + _PIECE]
        whole = piece.astype(np.int64)
        if not np.array_equal(whole.astype(np.float32), piece):
            return None
        counts += np.bincount(whole - lowest, minlength=len(counts))
    return lowest, counts
