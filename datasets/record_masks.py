"""The masks of a record of either stage, read from whatever files it names, on the grid that the encoder sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.manifest import InstructionRecord
from datasets.mask_files import MaskSource, MaskValue
from datasets.pretraining_records import SegmentationRecord
from datasets.volume.anyres import AnyresPlacement, place_mask, resize_nearest
from datasets.volume.cache import RecentLoader, VolumeLoader
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_label_map, read_mask
from datasets.volume.preprocessed_crops import boxed_mask, crop_masks
from datasets.volume.sparse_masks import SparseMasks


def record_masks(
    record: SegmentationRecord, loader: VolumeLoader, placement: AnyresPlacement, geometry: VolumeGeometry
) -> SparseMasks:
    """All masks of a record in the order of its labels, from the loader's cache if they are there.

    placement, geometry: of the record's volume, as the loader gave it.  Raises InputError for a mask that is not on the
    volume's grid.
    """
    paths = sorted({path for _, path in record.files()})
    details: dict[str, Any] = {
        "labels": record.labels,
        "values": record.values,
        "boxes": record.boxes,
        "files": record.mask_path,
    }
    details |= {"hu_offset": record.hu_offset} if record.hu_offset else {}  # the volume's crop depends on it
    cached = loader.cached("sparse masks", paths, details)
    if cached and (found := SparseMasks.open(cached)):
        return found
    masks = SparseMasks.pack(_resized_masks(record, placement, geometry), placement.resized_shape)
    if cached:
        masks.save(cached)
    return masks


def answer_masks(
    record: InstructionRecord,
    loader: VolumeLoader | RecentLoader,
    placement: AnyresPlacement,
    geometry: VolumeGeometry,
) -> Tensor:
    """The true mask of each ``<SEG>`` of an answer: (n, X, Y, Z) int8 on the padded grid, -1 where there is no volume.

    placement, geometry: of volume `record.mask_image`.  Masks in boxes, and unions of files, are read anew each time:
    the loader's cache is for files of the volume's size.  Raises InputError for a mask that is not on the volume's
    grid.
    """
    if record.whole_files is not None:
        return loader.masks(record.whole_files, record.whole_values, placement, geometry, record.hu_offset)
    masks = [read_source(record.mask_source(number), geometry) for number in range(len(record.labels))]
    return place_mask(np.stack(masks), placement)


def read_source(source: MaskSource, geometry: VolumeGeometry) -> np.ndarray:
    """The mask (H, W, D) uint8 that a source describes, on the grid of a loaded volume."""
    boxes = source.boxes if source.boxes is not None else [None] * len(source.paths)
    mask = np.zeros(geometry.shape, dtype=np.uint8)
    for path, value, box in zip(source.paths, source.file_values, boxes, strict=True):
        if source.boxes is None:
            mask |= read_mask([path], geometry, [value])[0]
        else:
            mask |= boxed_mask(path, box, geometry).astype(np.uint8)
    return mask


def _resized_masks(
    record: SegmentationRecord, placement: AnyresPlacement, geometry: VolumeGeometry
) -> Iterator[Tensor]:
    """For each label its mask (w, h, d) bool, read and resized one at a time."""
    if record.mask_folder is not None:
        for mask in crop_masks(record.mask_folder, record.labels, record.boxes, geometry):
            yield resize_nearest(mask, placement)
        return
    values: Sequence[MaskValue] = record.values or [None] * len(record.labels)
    if isinstance(record.mask_path, str):  # resized once: the nearest voxel's label is the label of the nearest voxel
        label_map = resize_nearest(read_label_map(record.mask_path, geometry), placement)
        yield from (_pick(label_map, value) for value in values)
        return
    for paths, value in zip(record.mask_files, values, strict=True):
        label_maps = (resize_nearest(read_label_map(path, geometry), placement) for path in paths)
        yield reduce(torch.logical_or, (_pick(label_map, value) for label_map in label_maps))


def _pick(label_map: Tensor, value: MaskValue) -> Tensor:
    if value is None:
        return label_map != 0
    # torch.isin sorts, which takes many times as long for a few values
    return reduce(torch.logical_or, [label_map == single for single in np.atleast_1d(value).tolist()])
