"""Which masks of an evaluation are shown, and their volume, truth and prediction read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datasets.mask_files import MaskSource
from datasets.record_masks import read_source
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_mask, read_volume
from datasets.volume.readers import read_raw

Case = tuple[dict[str, Any], dict[str, Any]]  # a prediction's record, and one entry of its "segmentation"


@dataclass(frozen=True)
class CaseImages:
    """volume: (H, W, D) in RAS; truth, prediction: (H, W, D) of 0 and 1, None where there is none; spacing in mm;
    affine: (4, 4), from voxels to RAS+ millimetres; problem: what could not be shown, and why."""

    volume: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray | None
    spacing: tuple[float, float, float]
    affine: np.ndarray
    problem: str | None


def ranked_cases(cases: Sequence[Case]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(rank, record, entry) with rank best, median and worst by Dice; fewer where there are fewer cases."""
    ordered = sorted(cases, key=lambda case: -case[1]["dice"])
    ranks = {0: "best"} if len(ordered) < 3 else {0: "best", len(ordered) // 2: "median"}
    if len(ordered) > 1:
        ranks[len(ordered) - 1] = "worst"
    return [(rank, *ordered[index]) for index, rank in ranks.items()]


def read_case(folder: Path, record: Mapping[str, Any], entry: Mapping[str, Any], values: Any) -> CaseImages:
    """The volume and masks of one case of the evaluation in ``folder``.

    Args:
        values: the label values of the true mask in its multi-label file, None where that is not known or not one.

    Raises:
        InputError, OSError: a file is gone or unreadable.
    """
    volume, geometry = _volume(record["image_path"][record.get("mask_image") or 0], record.get("hu_offset") or 0.0)
    truth, problem = None, None
    if entry.get("truth_path"):
        paths, boxes = entry["truth_path"], entry.get("truth_boxes")
        files, by_file = [paths] if isinstance(paths, str) else paths, entry.get("truth_values_by_file")
        labels = read_source(MaskSource(files, values, boxes, by_file), geometry)
        untold = values is None and "truth_values" not in entry  # as older predictions leave it
        shared = untold and isinstance(paths, str) and boxes is None and not _is_binary(paths)
        truth = None if shared else labels
        if shared:
            problem = "the true mask shares its file with others and the manifest was not given, so it is not drawn"
    prediction = None
    if entry.get("mask_path"):
        path = Path(entry["mask_path"])
        path = path if path.is_file() else folder / "masks" / path.name  # the folder may have been moved
        prediction = read_mask(path, geometry)[0]
    return CaseImages(volume, truth, prediction, geometry.spacing, np.asarray(geometry.affine), problem)


@lru_cache(maxsize=1)  # a volume may take a gigabyte
def _volume(path: str, hu_offset: float) -> tuple[np.ndarray, VolumeGeometry]:
    """A volume (H, W, D) in RAS with its geometry; often several masks of one follow each other."""
    array, geometry = read_volume(path, hu_offset=hu_offset)
    return array[0], geometry


def _is_binary(path: str) -> bool:
    return len(np.unique(read_raw(path).array)) <= 2
