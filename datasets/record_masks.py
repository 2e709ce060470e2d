"""The masks of a segmentation record, read from whatever files it names and resized for the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from datasets.pretraining_manifest import SegmentationRecord
from datasets.volume.anyres import AnyresPlacement, resize_nearest
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_label_map
from datasets.volume.preprocessed_crops import crop_masks
from datasets.volume.sparse_masks import SparseMasks


def record_masks(
    record: SegmentationRecord, loader: VolumeLoader, placement: AnyresPlacement, geometry: VolumeGeometry
) -> SparseMasks:
    """All masks of a record in the order of its labels, from the loader's cache if they are there.

    placement, geometry: of the record's volume, as the loader gave it.  Raises InputError for a mask that is not on the
    volume's grid.
    """
    paths = sorted({path for _, path in record.files()})
    details = {"labels": record.labels, "values": record.values, "boxes": record.boxes, "files": record.mask_path}
    cached = loader.cached("sparse masks", paths, details)
    if cached and cached.is_file():
        return SparseMasks.open(cached)
    masks = SparseMasks.pack(_resized_masks(record, placement, geometry), placement.resized_shape)
    if cached:
        masks.save(cached)
    return masks


def _resized_masks(
    record: SegmentationRecord, placement: AnyresPlacement, geometry: VolumeGeometry
) -> Iterator[Tensor]:
    """For each label its mask (w, h, d) bool, read and resized one at a time."""
    if record.mask_folder is not None:
        for mask in crop_masks(record.mask_folder, record.labels, record.boxes, geometry):
            yield resize_nearest(mask, placement)
        return
    values: Sequence[int | list[int] | None] = record.values or [None] * len(record.labels)
    label_maps: Iterable[Tensor]
    if isinstance(record.mask_path, str):  # resized once: the nearest voxel's label is the label of the nearest voxel
        label_maps = [resize_nearest(read_label_map(record.mask_path, geometry), placement)] * len(values)
    else:
        files = record.mask_path or []
        label_maps = (resize_nearest(read_label_map(path, geometry), placement) for path in files)
    for label_map, value in zip(label_maps, values, strict=True):
        if value is None:
            yield label_map != 0
        else:  # torch.isin sorts, which takes many times as long for a few values
            yield reduce(torch.logical_or, [label_map == single for single in np.atleast_1d(value).tolist()])
