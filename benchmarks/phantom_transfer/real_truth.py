"""Real CT with organs that are known: TotalSegmentator's example (`real_ct`) and OpenKBP's validation patients.

Where no contour exists, lungs are found by their HU: air inside the body that reaches the lowest slice, is no part of
the windpipe and is large.  That is safe for the apices on a planning CT of the neck, and claimed for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from datasets.errors import InputError
from datasets.prepare.sets.open_kbp import ORGANS

_SIDED = ("kidney", "autochthon", "iliopsoas", "hip", "femur", "humerus", "scapula", "clavicula")
_SAME = ("spleen", "gallbladder", "liver", "stomach", "pancreas", "esophagus", "trachea", "colon", "urinary_bladder",
         "sacrum", "heart", "aorta", "inferior_vena_cava", "spinal_cord", "brain", "skull", "sternum")  # fmt: skip
SLAB_START = 82  # slice of example_ct.nii.gz at which the slab with masks begins
LUNG_HU = -400.0
MIN_LUNG_ML = 40.0


@dataclass(frozen=True)
class RealCase:
    """A CT and its known organs.

    masks: boolean, on the CT's own grid, of the organs that are known whole. slices: those of the last axis that were
    annotated, where others were not.
    """

    name: str
    image: Path
    masks: Mapping[str, np.ndarray]
    slices: slice = field(default_factory=lambda: slice(None))


def our_name(name: str) -> str | None:
    """The phantoms' name of one of TotalSegmentator's structures; None where phantoms have none."""
    if name.startswith("vertebrae_") and name != "vertebrae_S1":
        return "spine"
    if name.startswith("rib_"):
        return "ribs"
    if name.startswith("lung_"):
        return "left lung" if name.endswith("left") else "right lung"
    for side in ("left", "right"):
        organ = name.removesuffix(f"_{side}")
        if organ != name and organ in _SIDED:
            return f"{side} {'clavicle' if organ == 'clavicula' else organ}"
    if name in ("small_bowel", "duodenum"):
        return "small bowel"
    return name.replace("_", " ") if name in _SAME else None


def check_folders(real_ct: Path | None, open_kbp: Path | None) -> None:
    """Raise InputError where no folder of real CTs is named, or a named one is not there."""
    if real_ct is None and open_kbp is None:
        raise InputError("no real CT: name the folder of TotalSegmentator's example as --real_ct, or --open_kbp")
    for option, folder in (("real_ct", real_ct), ("open_kbp", open_kbp)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"--{option} {folder}: no such folder; name another, or leave it out")


def real_ct_cases(folder: Path, min_voxels: int = 60) -> Iterator[RealCase]:
    """The slab of 30 slices by itself, and the whole CT with those slices annotated.

    Structures of fewer than ``min_voxels`` are left out.  Raises InputError where a file is missing.
    """
    names = folder / "example_seg_labels.json"
    if not names.is_file():
        raise InputError(f"{names}: is missing; give the folder of TotalSegmentator's example files as --real_ct")
    values = np.asarray(nib.Nifti1Image.from_filename(folder / "example_seg.nii.gz").dataobj).astype(int)
    masks: dict[str, np.ndarray] = {}
    for number, name in json.loads(names.read_text(encoding="utf-8")).items():
        ours = our_name(name)
        if ours is not None and (values == int(number)).any():
            masks[ours] = masks.get(ours, np.zeros(values.shape, bool)) | (values == int(number))
    masks = {name: mask for name, mask in masks.items() if mask.sum() >= min_voxels}
    yield RealCase("real_ct slab", folder / "example_ct_sm.nii.gz", masks)
    whole = folder / "example_ct.nii.gz"
    depth = nib.Nifti1Image.from_filename(whole).shape[2]
    span = slice(SLAB_START, SLAB_START + values.shape[2])
    in_whole = {}
    for name, mask in masks.items():
        in_whole[name] = np.zeros((*values.shape[:2], depth), bool)
        in_whole[name][:, :, span] = mask
    yield RealCase("real_ct whole", whole, in_whole, span)


def open_kbp_cases(folder: Path, limit: int) -> Iterator[RealCase]:
    """The first ``limit`` validation patients, or those of the test where a folder has no other.

    Raises InputError where the set is not in the folder.
    """
    path = folder / "patients.json"
    if not path.is_file():
        raise InputError(f"{path}: is missing; give the folder of OpenKBP as --open_kbp")
    patients = json.loads(path.read_text(encoding="utf-8"))
    listed = patients.get("validation") or patients.get("test")
    if not listed:
        raise InputError(f"{path}: lists no patient in validation, nor in test")
    for item in listed[:limit]:
        values = np.asarray(nib.Nifti1Image.from_filename(folder / item["organs_mask"]).dataobj)
        image = nib.Nifti1Image.from_filename(folder / item["image"])
        masks = {ORGANS[organ]: values == patients["mask_values"][organ] for organ in item["organs"]}
        lungs = lungs_by_hu(np.asarray(image.dataobj), image.affine)
        if lungs is not None:
            masks["lungs"] = lungs
        yield RealCase(f"open_kbp {item['patient']}", folder / item["image"], masks)


def lungs_by_hu(hu: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
    """Both lungs (boolean, on the CT's grid) by the rule above; None where the scan does not reach them."""
    image = nib.as_closest_canonical(nib.Nifti1Image(hu.astype(np.float32), affine))
    ras = np.asarray(image.dataobj)
    voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    body = ndimage.binary_opening(ras > -300, iterations=1)
    parts, count = ndimage.label(body)
    if not count:
        return None
    body = parts == 1 + int(np.argmax(ndimage.sum_labels(body, parts, np.arange(1, count + 1))))
    # inside: air that a slice's body closes in
    filled = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
    air = (ras < LUNG_HU) & filled
    core = ndimage.binary_erosion(air, iterations=2)  # parts the windpipe from the lungs
    parts, count = ndimage.label(core)
    lowest = int(np.flatnonzero(filled.any(axis=(0, 1)))[0])
    kept = np.zeros_like(core)
    for number in range(1, count + 1):
        part = parts == number
        if part[:, :, : lowest + 4].any() and part.sum() * voxel_ml >= MIN_LUNG_ML / 4:
            kept |= part
    lungs = ndimage.binary_dilation(kept, iterations=3, mask=air)
    if lungs.sum() * voxel_ml < MIN_LUNG_ML:
        return None
    back = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(affine))
    return nib.orientations.apply_orientation(lungs, back).astype(bool)
