"""Patients of a few voxels with organs of known place and grey value, as files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-2.0, -3.0, 4.0, 1.0])  # LPS, voxels of 2 x 3 x 4 mm


def write_patient(folder: Path, labels: dict[str, int], name: str = "a") -> dict:
    """A body of 12 x 10 x 8 voxels in air, stored as LPS, with the slab x == 4 + value for each organ; its row."""
    ct, label_map = np.full((20, 18, 12), -1000, np.int16), np.zeros((20, 18, 12), np.uint8)
    ct[4:16, 4:14, 2:10] = 40
    for value in labels.values():
        label_map[4 + value, 5:12, 3:9] = value
        ct[label_map == value] = 60 + 10 * value
    for kind, array in (("ct", ct), ("labels", label_map)):
        nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}_{kind}.nii")
    files = {"image_path": f"{name}_ct.nii", "mask_path": f"{name}_labels.nii"}
    return {**files, "labels": list(labels), "mask_values": labels, "patient_id": name}
