"""A patient with what the questions are measured in: voxels in HU, contours and targets, along one set of axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datasets.errors import InputError
from datasets.prepare.case import Case
from datasets.volume.geometry import Size3, foreground_box
from datasets.volume.loading import read_mask, read_volume

RIGHT, FRONT, UP = 0, 1, 2  # what each axis of an array in RAS runs towards
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Patient:
    """All arrays are in RAS.

    hu: (H, W, D).  spacing: mm a voxel.  organs: by label a mask (H, W, D), never empty, of those that were contoured.
    targets: by name the centroid, in voxels of `hu`.
    """

    hu: np.ndarray
    spacing: Point
    organs: dict[str, np.ndarray]
    targets: dict[str, Point]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing)) / 1000

    @cached_property
    def box(self) -> tuple[Size3, Size3]:
        """First voxel and size of the scan's extent: the box of voxels above 0 HU, to which volumes are cropped."""
        start, stop = foreground_box(self.hu)
        return start, (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])

    def centre(self, organ: str) -> np.ndarray:
        """Centroid of a contoured organ, in voxels."""
        return np.argwhere(self.organs[organ]).mean(axis=0)


def read_patient(case: Case) -> Patient:
    """Read a case; its `facts` may have `targets`: by name a centroid in voxel indices of the array as stored.

    Raises InputError where the volume or a mask cannot be read, and for an organ that is listed but has no voxel.
    """
    array, geometry = read_volume(case.image, hu_offset=case.hu_offset)
    organs: dict[str, np.ndarray] = {}
    for files in {mask.files: None for mask in case.masks.values()}:
        labels = [label for label, mask in case.masks.items() if mask.files == files]
        values = [list(case.masks[label].values or ()) for label in labels]
        organs |= dict(zip(labels, read_mask(files[0], geometry, values).astype(bool), strict=True))
    if empty := [label for label, mask in organs.items() if not mask.any()]:
        raise InputError(f"{case.masks[empty[0]].files[0]}: no voxel of {empty[0]}, which patients.json lists")
    stored_to_loaded = np.linalg.inv(np.asarray(geometry.affine)) @ np.asarray(geometry.source_affine)
    targets = {}
    for name, centroid in case.facts.get("targets", {}).items():
        x, y, z = (stored_to_loaded @ [*centroid, 1.0])[:3]
        targets[name] = (float(x), float(y), float(z))
    return Patient(array[0], geometry.spacing, {label: organs[label] for label in case.masks}, targets)
