"""A CT of a few thousand voxels with as many named structures as a data set has, and writers for its masks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.ct_files import as_orientation, ras_affine
from tests.replicas.truth import CaseTruth

SHAPE = (40, 36, 20)
CELLS = (12, 9, 9)  # a structure is a block of 3 x 3 x 2 voxels in one of these
RIGHT_SIDED = ("liver", "gallbladder")
LEFT_SIDED = ("spleen", "stomach")


def phantom(labels: Sequence[str], name: str, absent: Sequence[str] = ()) -> CaseTruth:
    """A body in air with one block for each label, at places that depend on `name`; RAS, so right is at high x.

    The blocks differ in HU, lie apart, and on the side that their label names.  Those of `absent` are left out.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE[:2]), indexing="ij")
    body = (x**2 + y**2 < 0.98) | (abs(x) < 0.95) & (abs(y) < 0.9)
    hu = np.repeat(np.where(body, 0, -1000).astype(np.int16)[:, :, None], SHAPE[2], axis=2)
    hu[:, :, 0] = hu[:, :, -1] = -1000
    free = {side: [] for side in (0, 1)}
    for cell in np.ndindex(*CELLS):
        free[int(cell[0] >= CELLS[0] // 2)].append(cell)
    for cells in free.values():
        rng.shuffle(cells)
    masks = {}
    for number, label in enumerate(labels):
        cell = free[_side(label, number)].pop()
        start = [2 + 3 * cell[0], 3 + 3 * cell[1], 1 + 2 * cell[2]]
        mask = np.zeros(SHAPE, dtype=bool)
        # a corner is missing, so that no flip and no turn leaves the block as it was
        mask[start[0] : start[0] + 3, start[1] : start[1] + 3, start[2] : start[2] + 2] = True
        mask[start[0], start[1], start[2]] = False
        mask[start[0] + 2, start[1], start[2]] = False
        if label in absent:
            mask[:] = False
        hu[mask] = 20 + 2 * number
        masks[label] = mask
    return CaseTruth(patient=name, hu=hu, affine=ras_affine(), masks=masks)


def _side(label: str, number: int) -> int:
    """1 for the patient's right, 0 for the left."""
    words = label.lower().split()
    if "right" in words or label.lower() in RIGHT_SIDED:
        return 1
    if "left" in words or label.lower() in LEFT_SIDED:
        return 0
    return number % 2


def merged(truth: CaseTruth, merges: Mapping[str, Sequence[str]]) -> CaseTruth:
    """The same with the union of some masks for each further label."""
    masks = dict(truth.masks)
    masks |= {label: np.any([truth.masks[part] for part in parts], axis=0) for label, parts in merges.items()}
    truth.masks = masks
    return truth


def label_map(truth: CaseTruth, values: Mapping[str, int], dtype: type = np.uint8) -> np.ndarray:
    """The labels' masks in one array of values, along RAS axes."""
    array = np.zeros(SHAPE, dtype=dtype)
    for label, value in values.items():
        array[truth.masks[label]] = value
    return array


def save_nifti(path: Path, ras: np.ndarray, codes: str = "LPS", shift: float = 0.0) -> Path:
    """An array along RAS axes as NIfTI, stored along other axes; `shift` moves it by so many mm along x."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array, affine = as_orientation(ras, codes)
    affine[0, 3] += shift
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
    return path


def only(truth: CaseTruth, labels: Sequence[str]) -> CaseTruth:
    """The same with the masks of these labels alone."""
    truth.masks = {label: truth.masks[label] for label in labels}
    return truth
