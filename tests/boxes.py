"""Bodies of one organ whose place is known, as files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def write_box(folder: Path, name: str, size: int, low: int, air: int = 0, stored: float = 0.0) -> tuple[str, str]:
    """A body of ``size`` voxels an axis with a liver (5) from low/12 to (low + 4)/12 of the first; CT and map.

    air: voxels of -500 HU before the body, along the first axis.  stored: what the CT's file holds beyond HU.
    """
    ct, labels = np.zeros((size,) * 3, np.float32), np.zeros((size,) * 3, np.uint8)
    ct += 100.0 * np.arange(1, size + 1)[:, None, None] / size
    labels[size * low // 12 : size * (low + 4) // 12] = 5
    before = ((air, 0), (0, 0), (0, 0))
    ct, labels = np.pad(ct, before, constant_values=-500) + stored, np.pad(labels, before)
    paths = {kind: str(folder / f"{name}_{kind}.nii.gz") for kind in ("ct", "labels")}
    for kind, array in (("ct", ct), ("labels", labels)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), paths[kind])
    return paths["ct"], paths["labels"]
