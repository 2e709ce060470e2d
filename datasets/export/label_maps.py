"""Several masks in one array: where they overlap the smaller structure lies on top, or they get layers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.loading import save_mask
from datasets.whole_files import write_whole_text

log = logging.getLogger(__name__)
_MOST_LABELS = 255  # one byte a voxel, 0 for the background


def label_map(masks: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """One array uint8 of masks of one shape, with 1 for the first of them and so on; and how many voxels two claim.

    A voxel of several belongs to that with the fewest voxels.  VolumeError for none or more than 255 masks.
    """
    check_count(masks)
    sizes = [int(np.count_nonzero(mask)) for mask in masks.values()]
    arrays = list(masks.values())
    labels = np.zeros(arrays[0].shape, dtype=np.uint8)
    overlap = np.zeros(arrays[0].shape, dtype=bool)
    for index in sorted(range(len(arrays)), key=lambda i: -sizes[i]):
        inside = arrays[index] != 0
        overlap |= inside & (labels != 0)
        labels[inside] = index + 1
    return labels, int(overlap.sum())


def layers_of(masks: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Label maps uint8 without any overlap, as few as come of taking the masks in turn; and each mask's (layer, value).

    VolumeError for none or more than 255 masks.
    """
    check_count(masks)
    layers: list[np.ndarray] = []
    highest: list[int] = []
    places = []
    for mask in masks.values():
        inside = mask != 0
        free = (number for number, layer in enumerate(layers) if not layer[inside].any())
        if (number := next(free, -1)) < 0:
            number = len(layers)
            layers.append(np.zeros(mask.shape, dtype=np.uint8))
            highest.append(0)
        highest[number] += 1
        layers[number][inside] = highest[number]
        places.append((number, highest[number]))
    return layers, places


def save_label_map(masks: Mapping[str, np.ndarray], geometry: VolumeGeometry, path: str | Path) -> list[Path]:
    """Write all masks as one NIfTI on the grid of the source, and beside it a JSON of value -> name.

    masks: by name, (H, W, D) on the loaded grid.  Where they overlap, the smaller structure stays, with a warning.
    Returns both paths.
    """
    path = Path(path)
    labels, overlap = label_map(masks)
    if overlap:
        log.warning("%s: %d voxels are of several masks, and are the smallest one's here", path, overlap)
    written = save_mask(labels, geometry, path)
    names = written.with_name(written.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    write_whole_text(names, json.dumps(dict(enumerate(masks, start=1)), indent=1, ensure_ascii=False) + "\n")
    return [written, names]


def check_count(masks: Mapping[str, np.ndarray]) -> None:
    """VolumeError for none or more masks than a byte can tell apart."""
    if not 0 < len(masks) <= _MOST_LABELS:
        raise VolumeError(f"{len(masks)} masks: one file holds from 1 to {_MOST_LABELS}; name fewer labels")
