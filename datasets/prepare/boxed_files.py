"""Masks of instruction records as files of the published layout: <folder>/<label>.npy with the label's box alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datasets.manifest import InstructionRecord
from datasets.mask_files import Box, MaskSource
from datasets.record_masks import read_source
from datasets.volume.geometry import AS_STORED, VolumeError, VolumeGeometry
from datasets.volume.loading import read_volume


def is_boxed(record: InstructionRecord) -> bool:
    """Whether the masks of a record are in boxes already, or it has none."""
    return not record.labels or record.mask_boxes is not None


def box_of(mask: np.ndarray) -> Box | None:
    """The bounding box of a mask (H, W, D), first voxel and one past the last; None where it is empty."""
    where = np.nonzero(mask)
    if not len(where[0]):
        return None
    first, last = [int(axis.min()) for axis in where], [int(axis.max()) + 1 for axis in where]
    return first[0], first[1], first[2], last[0], last[1], last[2]


def write_boxed(record: InstructionRecord, folder: Path, geometry: VolumeGeometry) -> list[list[Any]]:
    """Write a mask for each structure of the record into `folder`; gives their boxes (false: absent), label by label.

    geometry: of the record's volume, see `stored_geometry`.  Raises InputError where a mask cannot be read, or does not
    lie on its volume.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boxes: list[list[Any]] = []
    for number, names in enumerate(record.structures):
        boxes.append([])
        for name, source in zip(names, _sources(record, number), strict=True):
            if "/" in name:
                raise VolumeError(f"labels: {name!r} cannot be a file's name; write the label without a slash")
            mask = geometry.to_source(read_source(source, geometry)) > 0
            box = box_of(mask)
            boxes[-1].append(list(box) if box else False)
            if box:
                np.save(folder / f"{name}.npy", mask[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))])
    return boxes


def stored_geometry(path: str) -> VolumeGeometry:
    """The geometry of a volume that is loaded as it is stored, uncropped."""
    return read_volume(path, orientation=AS_STORED)[1]


def _sources(record: InstructionRecord, number: int) -> list[MaskSource]:
    """For each structure of the k-th label its mask."""
    if record.mask_values is not None and isinstance(record.mask_path, str):
        return [MaskSource([record.mask_path], record.mask_values[name]) for name in record.structures[number]]
    source = record.mask_source(number)
    if len(source.paths) != len(record.structures[number]):
        raise VolumeError(
            f"mask_path: {len(source.paths)} files for {len(record.structures[number])} structures of label {number}; "
            "the published form wants one a structure"
        )
    return [MaskSource([path], value) for path, value in zip(source.paths, source.file_values, strict=True)]
