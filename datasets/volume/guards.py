"""What about a volume is unlikely for a CT, so that an answer about it deserves doubt: one line each, with the number.

Nothing is refused here; what cannot be used at all is `datasets.volume.plausible`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from datasets.volume.geometry import VolumeGeometry

BODY = "body_mm"  # what a checkpoint records `body_range` as, among how it was trained
FEWEST_SLICES = 5
AIR = (-1100.0, -600.0)  # HU: air lies near -1000, lungs lie above
_DARK = -500.0  # HU: no tissue but lung is darker, and no fat
_FILL = -1100.0  # HU: below it lies what scanners fill the corners with
_SAMPLE = 500_000  # voxels that are looked at
_OFTEN_ENOUGH = 1e-4  # of the voxels
_ROOM = 1.5  # a body may be so many times larger or smaller than those of training
_AXES = ("first", "second", "third")


def unit_doubts(array: np.ndarray) -> list[str]:
    """Whether voxels (H, W, D) are likely no Hounsfield units: there is no air, or it is not near -1000.

    Air is the commonest value, in steps of 50, below -500 and above what scanners fill the corners with.
    """
    step = max(1, array.size // _SAMPLE)
    # every step-th in C's order, without array.ravel(), which copies a volume in Fortran's
    parts = np.array_split(np.arange(0, array.size, step), 16)
    voxels = np.concatenate([array[np.unravel_index(part, array.shape)] for part in parts]).astype(np.float32)
    dark = voxels[voxels < _DARK]
    lowest = float(array.min())
    if dark.size < _OFTEN_ENOUGH * voxels.size:
        return [f"no air: the darkest voxel is {lowest:g}, air is near -1000 HU; are the voxels Hounsfield units?"]
    fill = dark < _FILL
    if (dark == dark.min()).sum() >= 0.5 * fill.sum():  # a constant below all else
        dark = dark[(dark != dark.min()) | ~fill]
    if dark.size < _OFTEN_ENOUGH * voxels.size:
        return []  # nothing but the filling is dark: that says nothing of the unit
    bins, counts = np.unique(np.floor(dark / 50), return_counts=True)
    air = float(bins[counts.argmax()] * 50 + 25)
    if AIR[0] <= air <= AIR[1]:
        return []
    return [f"air is near {air:g}, in Hounsfield units it is near -1000; are the voxels Hounsfield units?"]


def slice_doubts(slices: int) -> list[str]:
    """Whether there are too few slices to look at in three dimensions."""
    if slices >= FEWEST_SLICES:
        return []
    return [f"{slices} slice{'s' * (slices != 1)}: with fewer than {FEWEST_SLICES} there is hardly a third dimension"]


def body_range(geometries: Iterable[VolumeGeometry]) -> dict[str, list[float]] | None:
    """Least and largest size of the body in mm along the axes of the loaded arrays; None where no file tells mm.

    The body is what the crop to voxels > 0 and the model's field of view leave.
    """
    sizes = np.array([_body(geometry) for geometry in geometries if geometry.axes_from == "file"])
    if not sizes.size:
        return None
    return {"least": sizes.min(0).round(1).tolist(), "largest": sizes.max(0).round(1).tolist()}


def range_doubts(geometry: VolumeGeometry, trained: Mapping[str, Sequence[float]] | Any) -> list[str]:
    """Whether a body is far larger or smaller than those that a model was trained on.

    trained: what `body_range` gave, as a checkpoint records it; nothing is said without it.
    """
    if not isinstance(trained, Mapping) or geometry.axes_from != "file":
        return []
    for axis, size, least, largest in zip(_AXES, _body(geometry), trained["least"], trained["largest"], strict=True):
        if not least / _ROOM <= size <= largest * _ROOM:
            return [
                f"the body is {size:.0f} mm long along the {axis} axis, in training it was {least:.0f} to "
                f"{largest:.0f} mm; the answer may be worth little"
            ]
    return []


def _body(geometry: VolumeGeometry) -> list[float]:
    return [size * spacing for size, spacing in zip(geometry.shape, geometry.spacing, strict=True)]
