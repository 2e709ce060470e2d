"""What a question about a CT gives: the words, a confidence for each disease, and masks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.errors import InputError
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_volume, save_mask
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
        """Write it as NIfTI with shape, affine and orientation of the CT's file, and return the path.

        Raises VolumeError where the path does not end in .nii.gz or .nii.
        """
        return save_mask(self.voxels, self.geometry, path)


@dataclass(frozen=True, eq=False)
class Answer:
    """text: with its special tokens.  confidences: disease -> probability.  masks: by name, see `mask_labels`.

    Masks belong to the first volume of the question; ``volume`` is None for a question about none.
    """

    text: str
    confidences: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, Mask] = field(default_factory=dict)
    question: str = ""
    volume: SourceVolume | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

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
