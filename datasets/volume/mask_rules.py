"""Which mask files are taken: on their volume's grid, with whole numbers for labels; how far either may be off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.volume.geometry import VolumeError, VolumeGeometry, corner_offset
from datasets.volume.readers import RawVolume, read_raw

log = logging.getLogger(__name__)
GRID_TOLERANCE = 0.5  # in voxels, at the corner that is furthest off
NOTED_OFFSET = 0.05  # less is what the rounding of headers leaves everywhere
LABEL_TOLERANCE = 1e-3
SCALED_LABEL_TOLERANCE = 0.02  # CT-ORG's slope of 6/255 makes 0.988 of 1 and 3.012 of 3
_warned: set[str] = set()  # each of these is said once a process


def check_grid(path: str | Path, mask: VolumeGeometry, volume: VolumeGeometry, warn: bool = True) -> float:
    """How far a mask's grid, along the axes of its volume's file, lies off that file's, in voxels (`corner_offset`).

    VolumeError at `GRID_TOLERANCE` or more; the first smaller one of a process that is no rounding is a warning.
    """
    offset = corner_offset(volume.source_shape, volume.source_affine, mask.shape, mask.affine)
    if offset >= GRID_TOLERANCE:
        raise VolumeError(
            f"{path}: not on the grid of {volume.source}: {_grid(mask.shape, mask.affine)}, the volume "
            f"{_grid(volume.source_shape, volume.source_affine)}"
            + (f", so a corner is {offset:.2f} voxels off" if np.isfinite(offset) else "")
            + "; resample it to the volume (python -m datasets.prepare SET --resample_masks)"
        )
    if warn and offset > NOTED_OFFSET and "off grid" not in _warned:
        _warned.add("off grid")
        log.warning(
            "%s: its header places it %.2f voxels off its volume; below %g it is taken voxel by voxel.  Others are not "
            "named: python -m datasets.manifest_check counts them",
            path,
            offset,
            GRID_TOLERANCE,
        )
    return offset


def whole_numbers(path: str | Path, raw: RawVolume) -> np.ndarray:
    """The labels of a mask file; VolumeError where its voxels are no whole numbers, up to a slope's rounding."""
    labels = np.rint(raw.array)  # a stored slope leaves 0.9999999 of a 1
    tolerance = SCALED_LABEL_TOLERANCE if raw.scaled else LABEL_TOLERANCE
    with np.errstate(invalid="ignore"):
        if not np.abs(raw.array - labels).max() < tolerance:  # nor for NaN and infinity
            raise VolumeError(f"{path}: {_no_labels(raw.array)}")
    return labels


def label_values(path: str | Path) -> set[int]:
    """The values that a mask file holds, 0 too; raises as `read_label_map`, whatever grid the mask lies on."""
    return set(np.unique(whole_numbers(path, read_raw(path))).astype(int).tolist())


def _grid(shape: Sequence[int], affine: Sequence[Sequence[float]]) -> str:
    spacing = " x ".join(f"{side:.5g}" for side in nib.affines.voxel_sizes(np.asarray(affine)))
    origin = ", ".join(f"{row[3]:.3f}" for row in affine[:3])
    return f"shape {tuple(shape)}, spacing {spacing} mm, first voxel at ({origin}) mm"


def _no_labels(array: np.ndarray) -> str:
    """What to say of a mask whose values are no whole numbers."""
    if not np.isfinite(array).all():
        return "holds NaN or infinite values, so no whole numbers; a mask needs labels, so replace them by 0"
    values = np.unique(array)
    shown = ", ".join(f"{value:g}" for value in values[:4]) + (f", ... {values[-1]:g}" if len(values) > 4 else "")
    cut = 0.5 if 0.5 < values[-1] <= 1 else values[-1] / 2
    return f"holds values that are no whole numbers ({shown}); a mask needs labels: write 1 where it is above {cut:g}"
