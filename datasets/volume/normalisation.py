"""Voxels clipped and normalised as a model's record says, in one way through the volume where that can be."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from datasets.volume.geometry import VolumeError
from datasets.volume.percentiles import counted, percentiles
from datasets.volume.preprocessing import SourceSteps

_WIDE = 1000  # a volume whose numbers lie within is not clipped to percentiles


@dataclass(frozen=True)
class Change:
    """What is done to voxels, in place: clipped to `clip`, less `shift`, divided by `scale`; None leaves a step out."""

    clip: tuple[float, float] | tuple[np.float32, np.float32] | None = None
    shift: np.float32 | None = None
    scale: np.float32 | None = None

    def __call__(self, array: np.ndarray) -> None:
        if self.clip is not None:
            np.clip(array, *self.clip, out=array)
        if self.shift is not None:
            array -= self.shift
        if self.scale is not None:
            array /= self.scale


def normalize(array: np.ndarray) -> np.ndarray:
    """Clip (1, H, W, D) to its 0.5 and 99.5 percentiles if max - min > 1000; then zero mean, unit deviation.

    As the published loader does.  Returns a new float32 array; raises VolumeError where nothing but a constant is left.
    """
    return normalised_in_place(np.array(array, dtype=np.float32), SourceSteps())


def known_change(array: np.ndarray, steps: SourceSteps) -> Change | None:
    """What the steps do to an array of float32 or of whole numbers, found without changing it.

    Whole numbers, as nearly all CTs hold, are counted, which gives percentiles, mean and deviation.  The change leaves
    the same bits as `normalised_in_place`.  None where that has to go step by step; raises VolumeError as it does.
    """
    clip = steps.clip if isinstance(steps.clip, tuple) else None
    low, high = np.float32(array.min()), np.float32(array.max())
    if steps.normalisation == "window":
        return _by_window(steps, low, high)
    by_percentiles = steps.clip == "percentiles" and high - low > _WIDE
    if steps.normalisation == "none" and not by_percentiles:
        return Change(clip)
    counts = counted(array)
    if counts is None:
        return None
    if by_percentiles:
        lower, upper = counts.percentiles((0.5, 99.5)).astype(np.float32)
        clip = (lower, upper)
        if steps.normalisation == "none":
            return Change(clip)
    values = counts.values if clip is None else np.clip(counts.values, *clip)
    shift = counts.mean(values)
    scale = None if shift is None else counts.deviation(values - shift)
    if scale == 0:
        raise _constant(steps)
    return None if scale is None else Change(clip, shift, scale)


def normalised_in_place(array: np.ndarray, steps: SourceSteps) -> np.ndarray:
    """A float32 array (1, H, W, D) after the steps, one after the other; raises VolumeError for a constant."""
    low, high = array.min(), array.max()
    if steps.normalisation == "window":
        _by_window(steps, low, high)(array)
        return array
    if isinstance(steps.clip, tuple):
        np.clip(array, *steps.clip, out=array)
    elif steps.clip == "percentiles" and high - low > _WIDE:
        np.clip(array, *percentiles(array, (0.5, 99.5)), out=array)
    if steps.normalisation == "none":
        return array
    array -= np.float32(array.mean(dtype=np.float64))
    # squares in float64, plane by plane: array.std(dtype=float64) would make a float64 copy of the whole volume
    deviation = np.sqrt(np.mean([np.square(plane, dtype=np.float64).mean() for plane in array[0]]))
    if deviation == 0:
        raise _constant(steps)
    array /= np.float32(deviation)
    return array


def _by_window(steps: SourceSteps, least: np.float32, largest: np.float32) -> Change:
    assert isinstance(steps.clip, tuple)  # as the record has made sure
    low, high = steps.clip
    if np.clip(least, low, high) == np.clip(largest, low, high):
        raise _constant(steps)
    return Change(steps.clip, np.float32((low + high) / 2), np.float32((high - low) / sqrt(12)))


def _constant(steps: SourceSteps) -> VolumeError:
    to = "{:g} to {:g} HU".format(*steps.clip) if isinstance(steps.clip, tuple) else "its 0.5 and 99.5 percentiles"
    return VolumeError(f"the volume is constant after clipping to {to}; this is no CT")
