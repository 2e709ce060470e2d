"""Percentiles, mean and deviation of a whole CT whose voxels are whole numbers: counted, with no copy of the volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_MOST_VALUES = 2**20  # different whole numbers that are counted; a CT has some thousands
_PIECE = 2**18  # voxels counted at a time, few enough to stay near the processor
# How far two sums of the same voxels in float64 can be apart, as a share of what is summed: numpy adds pairwise within
# 8,192 voxels and these one after another, 2^30 voxels in 2^17 additions of 2^-53 each.
_SUM_ERROR = 1e-10


def percentiles(array: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
    """As ``np.percentile(array, wanted)``, to the last bit, of a float32 array without NaN."""
    counts = counted(array)
    return np.percentile(array, wanted) if counts is None else counts.percentiles(wanted)


@dataclass(frozen=True)
class VoxelCounts:
    """How many voxels have each whole number from `lowest` on; the last number counted may have none."""

    lowest: int
    counts: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The whole numbers, float32 (n,)."""
        return np.arange(self.lowest, self.lowest + len(self.counts), dtype=np.int64).astype(np.float32)

    def percentiles(self, wanted: Sequence[float]) -> np.ndarray:
        """As ``np.percentile`` of the voxels in float32, to the last bit."""
        reached = self.counts.cumsum()
        size = int(reached[-1])
        places = (size - 1) * np.true_divide(wanted, np.float32(100))  # among the sorted voxels, as numpy has them
        found = []
        for place in places:
            before = int(np.floor(place))
            neighbours = np.searchsorted(reached, (before, min(before + 1, size - 1)), side="right") + self.lowest
            # between the two as numpy goes from one to the other
            found.append(np.quantile(neighbours.astype(np.float32), np.array([place - before]))[0])
        return np.array(found)

    def mean(self, values: np.ndarray) -> np.float32 | None:
        """Mean of the voxels where those of the i-th number are ``values[i]``.

        It is the float32 that comes of summing the voxels one by one in float64, in any order; None where the sum lies
        too near the middle between two of them to tell.
        """
        values = values.astype(np.float64)
        size = self.counts.sum()
        error = _SUM_ERROR * float((self.counts * np.abs(values)).sum() / size)
        return _settled(float((self.counts * values).sum() / size), error)

    def deviation(self, values: np.ndarray) -> np.float32 | None:
        """Root of the mean square, for values whose mean has been taken off; None as of `mean`."""
        squares = np.square(values, dtype=np.float64)
        found = float(np.sqrt((self.counts * squares).sum() / self.counts.sum()))
        return _settled(found, _SUM_ERROR * found)


def counted(array: np.ndarray) -> VoxelCounts | None:
    """The voxels of an array of whole numbers, or float32; None where they are other numbers, or too far apart."""
    low, high = float(array.min()), float(array.max())
    if not high - low < _MOST_VALUES or max(abs(low), abs(high)) > 2**24:
        return None
    lowest = int(np.floor(low))
    counts = np.zeros(int(high) - lowest + 2, dtype=np.int64)
    along_memory = array.transpose(np.argsort([-abs(stride) for stride in array.strides], kind="stable"))
    for piece in _pieces(along_memory):
        whole = piece.astype(np.int64)
        if array.dtype.kind == "f" and not np.array_equal(whole.astype(array.dtype), piece):
            return None
        whole -= lowest
        counts += np.bincount(whole.ravel(order="K"), minlength=len(counts))
    return VoxelCounts(lowest, counts)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of about `_PIECE` voxels that make up the array."""
    if array.size <= _PIECE:
        yield array
        return
    step = _PIECE * len(array) // array.size
    for start in range(0, len(array), max(step, 1)):
        if step:
            yield array[start : start + step]
        else:
            yield from _pieces(array[start])


def _settled(value: float, error: float) -> np.float32 | None:
    """The float32 of a number that is known up to `error`, if there is but one."""
    low, high = np.float32(value - error), np.float32(value + error)
    return low if low == high else None
