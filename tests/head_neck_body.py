"""A made-up head and neck of known geometry, stored as P, L, I like OpenKBP's files, and the case that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.prepare.case import Case, Mask

SHAPE = (40, 50, 60)  # voxels to the back, to the left and downwards
SPACING = (4.0, 4.0, 2.5)
MARGIN = 5  # voxels of air around the body, on every side
VALUES = {"brainstem": 1, "spinal cord": 2, "right parotid gland": 3, "left parotid gland": 4, "esophagus": 5,
          "larynx": 6, "mandible": 7}  # fmt: skip
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # of stored voxels, [first, last)
ORGANS: dict[str, Box] = {
    "brainstem": ((22, 28), (22, 28), (6, 18)),
    "spinal cord": ((23, 26), (23, 27), (18, 54)),
    "right parotid gland": ((18, 24), (9, 14), (15, 26)),
    "left parotid gland": ((18, 24), (36, 41), (15, 30)),
    "esophagus": ((19, 22), (24, 27), (40, 50)),
    "larynx": ((13, 18), (22, 29), (32, 40)),
    "mandible": ((8, 12), (15, 36), (20, 28)),
}


def affine() -> np.ndarray:
    """Of the stored array: its axes run to the back, to the left and downwards."""
    to_ras = np.zeros((4, 4))
    to_ras[1, 0], to_ras[0, 1], to_ras[2, 2] = -SPACING[0], -SPACING[1], -SPACING[2]
    to_ras[3, 3] = 1
    return to_ras


def body() -> np.ndarray:
    """HU: soft tissue in air; the box above 0 HU is the array without its margin."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN] = 40
    return hu


def fill(hu: np.ndarray, box: Box, value: int) -> np.ndarray:
    """The array with one value in a box of it."""
    hu[tuple(slice(*ends) for ends in box)] = value
    return hu


def write_case(
    folder: Path,
    hu: np.ndarray | None = None,
    organs: Mapping[str, Box] | None = None,
    targets: Mapping[str, list[float]] | None = None,
    name: str = "pt_1",
) -> Case:
    """Write volume and label map; `targets` are centroids in stored voxels."""
    organs = ORGANS if organs is None else organs
    labels = np.zeros(SHAPE, np.uint8)
    for organ, box in organs.items():
        fill(labels, box, VALUES[organ])
    paths = folder / f"{name}.nii.gz", folder / f"{name}_organs.nii.gz"
    for path, array in zip(paths, (body() if hu is None else hu, labels), strict=True):
        nib.save(nib.Nifti1Image(array, affine()), path)
    masks = {organ: Mask((paths[1],), (VALUES[organ],)) for organ in organs}
    return Case(name, name, paths[0], "train", masks=masks, facts={"targets": dict(targets or {})})
