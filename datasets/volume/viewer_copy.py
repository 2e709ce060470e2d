"""A volume as NIfTI for viewers in a browser."""

from __future__ import annotations

import nibabel as nib
import numpy as np

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
