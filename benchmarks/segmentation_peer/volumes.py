"""Volumes with their masks in memory: cropped to the body, normalised as nnU-Net does, small enough to hold them all.

A volume is float16 and its masks are one array of bits, bit i for organ i, so that a step of training reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.manifest_rows import refuse_rows
from datasets.mask_files import MaskValue
from datasets.pretraining_manifest import SegmentationRecord, read_pretraining_manifest
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_label_map, read_volume

BODY_HU = -500.0  # what is denser is body, or lies on it
MOST_ORGANS = 24  # as many bits as a float32 keeps through augmentation
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Normalisation:
    """nnU-Net's for CT: clip to percentiles of the organs' voxels in the training data, then their mean and deviation.

    Isensee et al., Nature Methods 18 (2021), "Intensity normalization".  All values in HU.
    """

    low: float
    high: float
    mean: float
    deviation: float

    @classmethod
    def of_voxels(cls, voxels: np.ndarray) -> Normalisation:
        """From the HU (n,) of organ voxels; raises InputError where they are all the same."""
        low, high = (float(value) for value in np.percentile(voxels, PERCENTILES))
        clipped = np.clip(voxels.astype(np.float64), low, high)
        if not clipped.std() > 0:
            raise InputError("the organs of the training manifest have no contrast: all their voxels have one value")
        return cls(low, high, float(clipped.mean()), float(clipped.std()))

    def __call__(self, hounsfield: np.ndarray) -> np.ndarray:
        """HU of any shape -> float16 of the same shape."""
        return ((np.clip(hounsfield, self.low, self.high) - self.mean) / self.deviation).astype(np.float16)

    @property
    def air(self) -> float:
        """The normalised value of air, which is what surrounds a body."""
        return (self.low - self.mean) / self.deviation


@dataclass(frozen=True)
class BodyVolume:
    """One record, cropped to the body.

    image: (w, h, d), HU in int16 or normalised in float16, oriented to RAS.  masks: (w, h, d) unsigned, bit i for organ
    i.  annotated: (organs,) bool, which organs were contoured.  geometry: of the crop, back to the file's grid.
    """

    record: SegmentationRecord
    image: np.ndarray
    masks: np.ndarray
    annotated: np.ndarray
    geometry: VolumeGeometry


def read_records(path: str | Path) -> list[SegmentationRecord]:
    """The records of a segmentation manifest of pretraining; InputError names file, row and field of a bad one."""
    where, records, faults = read_pretraining_manifest(path, "segmentation", None)
    refuse_rows(where, faults)
    found = [record for record in records.values() if isinstance(record, SegmentationRecord)]
    if not found:
        raise InputError(f"{where}: no records; write it with python -m datasets.prepare")
    for record in found:
        if record.mask_path is None:
            raise InputError(f"{where}: {record.image_path} is a preprocessed crop; give volumes with mask_path")
    return found


def organs_of(records: Sequence[SegmentationRecord]) -> list[str]:
    """Every label, in the order of first appearance; InputError where they are more than the bits of a mask."""
    organs = list(dict.fromkeys(label for record in records for label in record.labels))
    if len(organs) > MOST_ORGANS:
        raise InputError(f"the manifest names {len(organs)} structures; this comparison takes at most {MOST_ORGANS}")
    return organs


def record_masks(record: SegmentationRecord, geometry: VolumeGeometry) -> np.ndarray:
    """Masks (labels, w, h, d) bool in the order of the record's labels, on the grid of `geometry`."""
    values = record.values or [None] * len(record.labels)
    if isinstance(record.mask_path, str):  # read once for all labels
        label_map = read_label_map(record.mask_path, geometry)
        return np.stack([_pick(label_map, value) for value in values])
    masks = [
        reduce(np.logical_or, (_pick(read_label_map(path, geometry), value) for path in paths))
        for paths, value in zip(record.mask_files, values, strict=True)
    ]
    return np.stack(masks)


def _pick(label_map: np.ndarray, value: MaskValue) -> np.ndarray:
    if value is None:
        return label_map != 0
    return reduce(np.logical_or, (label_map == single for single in np.atleast_1d(value)))


def read_body(record: SegmentationRecord, organs: Sequence[str]) -> BodyVolume:
    """The volume in HU, int16, cropped to the bounding box of the body and of the masks."""
    hounsfield, geometry = read_volume(record.image_path, hu_offset=record.hu_offset)
    masks = record_masks(record, geometry)
    bits = np.zeros(geometry.shape, dtype=_bits_type(len(organs)))
    annotated = np.zeros(len(organs), dtype=bool)
    for label, mask in zip(record.labels, masks, strict=True):
        number = organs.index(label)
        annotated[number] = True
        bits |= mask.astype(bits.dtype) << bits.dtype.type(number)
    image = np.rint(hounsfield[0]).astype(np.int16)
    start, stop = _box((image > BODY_HU) | (bits > 0))
    cropped = geometry.cropped(start, stop)
    box = cropped.crop_box
    return BodyVolume(record, image[box].copy(), bits[box].copy(), annotated, cropped)


def organ_voxels(volumes: Sequence[BodyVolume]) -> np.ndarray:
    """HU (n,) of all voxels of any organ."""
    return np.concatenate([volume.image[volume.masks > 0] for volume in volumes])


def _bits_type(organs: int) -> type[np.unsignedinteger]:
    return np.uint8 if organs <= 8 else np.uint16 if organs <= 16 else np.uint32


def _box(inside: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and stop of the bounding box of True voxels; the whole array where there is none."""
    if not inside.any():
        return (0, 0, 0), (inside.shape[0], inside.shape[1], inside.shape[2])
    found = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    first, second, third = ((int(where[0]), int(where[-1]) + 1) for where in found)
    return (first[0], second[0], third[0]), (first[1], second[1], third[1])
