"""Volumes laid out along their last axis, as torch and numpy go through them fastest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_APART = 16  # voxels between the rows of what is turned: rows a power of two apart would push each other out


def laid_out(array: np.ndarray, change: Callable[[np.ndarray], None] | None = None) -> np.ndarray:
    """An array (H, W, D) as float32 in C's order: itself where it is that already, otherwise a copy.

    change: what is done in place to all voxels, each for itself; it is given the float32 array in parts, and changes
    `array` too where that is what is given back.

    Files run along their first axis.  Copied in one go, each voxel is fetched from another page of memory.  Here a
    plane of that axis and the last is fetched along the first, changed and turned while it is near the processor.
    """
    if array.dtype == np.float32 and array.flags.c_contiguous:
        if change:
            for plane in array:
                change(plane)
        return array
    copy = np.empty(array.shape, dtype=np.float32)
    fastest = int(np.argmin(np.abs(array.strides)))
    if fastest == 2:
        for to, plane in zip(copy, array, strict=True):
            to[...] = plane
            if change:
                change(to)
        return copy
    depth, width = array.shape[2], array.shape[fastest]
    near = np.empty((depth, width + _APART), dtype=np.float32)[:, :width]
    for to, plane in zip(np.moveaxis(copy, 1 - fastest, 0), np.moveaxis(array, 1 - fastest, 0), strict=True):
        near[...] = plane.T
        if change:
            change(near)
        to[...] = near.T
    return copy
