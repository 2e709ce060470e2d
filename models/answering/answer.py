"""What a question about a CT gives: the words, a confidence for each disease, and masks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset

from datasets.errors import InputError
from datasets.export.findings import Findings, save_findings
from datasets.export.masks import save_masks, save_one_mask
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_volume
from datasets.volume.overlay import overlay_image

_HU_LOWEST = -500.0  # a CT in HU holds air; a file without it is shown by its percentiles


@dataclass(frozen=True)
class SourceVolume:
    """The file that masks belong to.

    geometry: how the loaded volume lies in it.  array_axes: of an array, as ``read_volume`` takes them.
    """

    path: str
    geometry: VolumeGeometry
    array_axes: str | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask of an answer; ``voxels`` (H, W, D) uint8 is on the loaded grid, ``array`` on the file's own."""

    name: str
    voxels: np.ndarray = field(repr=False)
    geometry: VolumeGeometry = field(repr=False)

    @property
    def array(self) -> np.ndarray:
        """The mask on the grid of the CT's file, uint8, 0 outside of what the model saw."""
        return np.ascontiguousarray(self.geometry.to_source(self.voxels))

    @property
    def millilitres(self) -> float:
        """Its volume; that of an array without spacing counts voxels of 1 mm."""
        return float(self.voxels.sum(dtype=np.int64) * prod(self.geometry.spacing) / 1000)

    def save(self, path: str | Path) -> Path:
        """Write it on the grid of the CT's file, and return the path; its ending is the format.

        ``.nii.gz`` or ``.nii``: NIfTI; ``.seg.nrrd``: a segmentation of 3D Slicer; ``.dcm``: a DICOM segmentation, of a
        DICOM series alone.  Raises InputError for any other ending.
        """
        return save_one_mask(self.name, self.voxels, self.geometry, path)


@dataclass(frozen=True, eq=False)
class Answer:
    """text: with its special tokens.  confidences: disease -> probability.  masks: by name, see `mask_labels`.

    Masks belong to the first volume of the question; ``volume`` is None for a question about none.
    warnings: what is odd about the volumes, one line each (`datasets.volume.guards`).
    """

    text: str
    confidences: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, Mask] = field(default_factory=dict)
    question: str = ""
    volume: SourceVolume | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    def save_masks(self, path: str | Path) -> list[Path]:
        """Write all masks to one file on the grid of the CT's file, and return what was written.

        ``.seg.nrrd``: a segmentation of 3D Slicer, with names, colours and codes; ``.dcm``: a DICOM segmentation, of a
        DICOM series alone; ``.nii.gz`` or ``.nii``: a map of labels, with their names in a JSON beside it.
        Raises InputError for any other ending, and where there are no masks.
        """
        voxels = {name: mask.voxels for name, mask in self.masks.items()}
        return save_masks(voxels, self._geometry("masks"), path)

    def save_findings(self, path: str | Path, segmentation: Dataset | None = None) -> Path:
        """Write confidences and the masks' volumes in codes: ``.json``, or ``.dcm`` for a DICOM structured report.

        segmentation: what ``pydicom.dcmread`` reads of the masks' DICOM segmentation, for the report to point to.
        Raises InputError for any other ending; for a report also without findings or a DICOM series.
        """
        millilitres = {name: round(mask.millilitres, 3) for name, mask in self.masks.items()}
        findings = Findings(self.question, self.text, self.confidences, millilitres)
        return save_findings(findings, self._geometry("findings"), path, segmentation)

    def _geometry(self, what: str) -> VolumeGeometry:
        if self.volume is None:
            raise InputError(f"{what}: the question was about no volume, so there is nothing to write; ask about a CT")
        return self.volume.geometry

    def overlay(self) -> Image.Image:
        """A picture of axial, coronal and sagittal planes with the masks over them; the CT's file is read again.

        Raises InputError where the question was about no volume, or its file can no longer be read.
        """
        if self.volume is None:
            raise InputError("overlay: the question was about no volume, so there is nothing to draw; ask about a CT")
        array, whole = read_volume(self.volume.path, array_axes=self.volume.array_axes)
        masks = {name: whole.from_source(mask.array) for name, mask in self.masks.items()}
        window = "auto" if array.min() < _HU_LOWEST else None
        return overlay_image(array[0], masks, whole.spacing, window=window, title=self.question or None)
