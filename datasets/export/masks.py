"""Masks to files, by the ending of a name or by the names of formats."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.export.dicom_segmentation import save_dicom_segmentation
from datasets.export.dicom_source import is_dicom_source
from datasets.export.label_maps import save_label_map
from datasets.export.slicer_segmentation import ENDING, save_slicer_segmentation
from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.loading import save_mask

# nifti: a file for each mask.  The others are one file with all of them, by these endings.
FORMATS = {"nifti": ".nii.gz", "seg.nrrd": ENDING, "dicom-seg": "_seg.dcm", "labels": "_labels.nii.gz"}

log = logging.getLogger(__name__)


def save_masks(masks: Mapping[str, np.ndarray], geometry: VolumeGeometry, path: str | Path) -> list[Path]:
    """Write all masks of a volume to one file, and return what was written.

    masks: by name, (H, W, D) on the loaded grid.  path: ``.seg.nrrd`` for 3D Slicer, ``.dcm`` for a DICOM segmentation,
    ``.nii.gz`` or ``.nii`` for one map of labels with a JSON of names beside it.
    Raises InputError for another ending, for no masks, and as the writers do.
    """
    path = Path(path)
    if path.name.endswith(ENDING):
        return [save_slicer_segmentation(masks, geometry, path)]
    if path.name.endswith(".dcm"):
        save_dicom_segmentation(masks, geometry, path)
        return [path]
    if path.name.endswith((".nii", ".nii.gz")):
        return save_label_map(masks, geometry, path)
    raise VolumeError(f"{path}: masks are written as .seg.nrrd, .dcm, .nii.gz or .nii; end the name in one of these")


def save_one_mask(name: str, mask: np.ndarray, geometry: VolumeGeometry, path: str | Path) -> Path:
    """Write a mask as `save_masks` does, but NIfTI as 0 and 1 without a JSON; returns the path."""
    path = Path(path)
    if path.name.endswith((".nii", ".nii.gz")):
        return save_mask(mask, geometry, path)
    return save_masks({name: mask}, geometry, path)[0]


def write_formats(
    masks: Mapping[str, np.ndarray], geometry: VolumeGeometry, stem: str | Path, formats: Sequence[str]
) -> list[Path]:
    """Write masks in those of `FORMATS` that are one file of all: ``stem.seg.nrrd``, ``stem_seg.dcm`` and so on.

    What the masks cannot be written as (all empty, no DICOM series) is left out, with a warning.
    """
    written: list[Path] = []
    for name in formats:
        if name == "nifti" or not masks:
            continue
        try:
            written += save_masks(masks, geometry, Path(f"{stem}{FORMATS[name]}"))
        except InputError as error:
            log.warning("no %s: %s", name, error)
    return written


def parse_formats(text: str, option: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names of formats from a list with commas; raises InputError for one that is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--{option} {unknown[0]}: give one or several of {', '.join(known)}, with commas")
    return names


def check_dicom(images: Sequence[str], formats: Sequence[str], option: str) -> None:
    """Raise InputError where a DICOM object is asked for and none of the images is a DICOM series."""
    asked = [name for name in formats if name.startswith("dicom")]
    if asked and not any(map(is_dicom_source, images)):
        raise InputError(
            f"--{option} {asked[0]}: a DICOM object refers to a DICOM series, and {images[0]} is none; leave it out"
        )
