"""A volume as NIfTI for viewers in a browser."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np

MOST_SHOWN = 2**28  # voxels, 1024 slices of 512 x 512: what a browser draws takes four bytes each on its GPU
LONGEST_SIDE = 2048  # voxels, of a 3D texture on usual GPUs
_SIGNED_16_BITS = (-(2**15), 2**15 - 1)


def viewer_copy(voxels: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """An image of a volume (H, W, D): in 16 bits where its values are whole numbers that fit, else in float32.

    affine: (4, 4), from voxels to RAS+ millimetres.
    """
    low, high = _SIGNED_16_BITS
    fits = voxels.min() >= low and voxels.max() <= high
    whole = fits and not any(np.mod(plane, 1).any() for plane in voxels)  # plane by plane: a volume may take gigabytes
    image = nib.Nifti1Image(voxels.astype(np.int16 if whole else np.float32), np.asarray(affine))
    image.header.set_xyzt_units("mm")
    return image


def shown_step(
    shape: Sequence[int], spacing: Sequence[float], most: int = MOST_SHOWN, longest: int = LONGEST_SIDE
) -> tuple[int, int, int]:
    """Every how many-th voxel along each axis is shown, so that a browser can hold what is left; (1, 1, 1) as a rule.

    shape: (H, W, D).  spacing: mm; the axis whose shown voxels lie closest is thinned out first.
    most, longest: voxels of all, and along one axis, that are shown.
    """
    step = [-(-size // longest) for size in shape]
    while np.prod(shown := [-(-size // each) for size, each in zip(shape, step, strict=True)], dtype=np.int64) > most:
        axes = [axis for axis in range(3) if shown[axis] > 1]
        step[min(axes, key=lambda axis: spacing[axis] * step[axis])] += 1
    return step[0], step[1], step[2]


def thinned(voxels: np.ndarray, step: Sequence[int]) -> np.ndarray:
    """Every `step`-th voxel of (H, W, D) along each axis, from the first; a view."""
    return voxels[:: step[0], :: step[1], :: step[2]]


def thinned_affine(affine: np.ndarray, step: Sequence[int]) -> np.ndarray:
    """The affine (4, 4) of what `thinned` leaves."""
    return np.asarray(affine) @ np.diag([*step, 1.0])
