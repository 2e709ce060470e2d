"""Dice, surface Dice (NSD), HD95 on the source grid, per structure, with intervals by patient.

Conventions, the same in every table: where prediction and truth are both empty, Dice = NSD = 1 and HD95 = 0 mm; where
just one is empty, Dice = NSD = 0 and HD95 has no value (no surface to measure to), is left out of its mean, and is
counted in the notes. A mask that was asked for and not given counts as Dice = NSD = 0, whatever the truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance

from datasets.errors import InputError
from evaluation.metrics.bootstrap import RESAMPLES, PatientBootstrap, bootstrap_mean, make_estimate, ratio

TOLERANCE_MM = 2.0
SPACING_ROUNDING_MM = (
    1e-4  # a spacing read from a float32 affine may be 2.0000001: a distance of one such voxel still counts as 2 mm
)
METRICS = ("dice", "nsd", "hd95")
# Of an answer without the mask that was asked for.
NO_MASK: dict[str, float | None] = {"dice": 0.0, "nsd": 0.0, "hd95": None}


def _binary(mask: Any, name: str) -> np.ndarray:
    array = np.asarray(mask)
    if array.ndim != 3:
        raise InputError(f"segmentation: {name} has shape {array.shape}; a mask (H, W, D) is needed")
    return array if array.dtype == bool else array > 0


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean arrays; 1 where both are empty."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(prediction & truth)) / total


def surface_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> tuple[float, float | None]:
    """NSD at `tolerance_mm` and HD95 in mm from one pass over the surfaces (MONAI's surface distances).

    A surface is the set of mask voxels with a 6-neighbour outside the mask (or outside the volume). NSD is the share
    of both surfaces' voxels that lie within the tolerance of the other surface (Nikolov et al. 2018, each voxel
    counting alike). HD95 is the larger of the two directed 95th percentiles. Equal to MONAI's `compute_surface_dice`
    and `compute_hausdorff_distance(percentile=95)`.
    """
    if not truth.any() or not prediction.any():
        return (1.0, 0.0) if not truth.any() and not prediction.any() else (0.0, None)
    # The bounding box of the two plus one voxel of background has the same surfaces and is far smaller than a body CT.
    inside = np.argwhere(truth | prediction)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    predicted, true = (torch.from_numpy(np.pad(mask[box], 1)) for mask in (prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, distances, _ = get_edge_surface_distance(
            predicted, true, spacing=[float(s) for s in spacing], symmetric=True
        )
    both = np.concatenate([part.numpy() for part in distances])
    nsd = float((both <= tolerance_mm + SPACING_ROUNDING_MM).mean())
    return nsd, float(max(np.quantile(part.numpy(), 0.95) for part in distances))


def segmentation_scores(
    prediction: Any, truth: Any, spacing: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> dict[str, float | None]:
    """All figures of one structure of one scan.

    Args:
        prediction, truth: (H, W, D), bool or 0/1, on the source grid.
        spacing: mm along H, W, D.
    Returns:
        dice, nsd, hd95 (mm, None where just one mask is empty), prediction_ml, truth_ml.
    Raises:
        InputError: the shapes differ, are not 3D, or the spacing is not three positive numbers.
    """
    predicted, true = _binary(prediction, "prediction"), _binary(truth, "truth")
    if predicted.shape != true.shape:
        raise InputError(f"segmentation: prediction {predicted.shape} and truth {true.shape} are on different grids")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"segmentation: spacing {tuple(spacing)} must be three positive millimetre values")
    nsd, hd95 = surface_scores(predicted, true, spacing, tolerance_mm)
    millilitres = float(np.prod(np.asarray(spacing, dtype=np.float64))) / 1000
    return {
        "dice": dice(predicted, true),
        "nsd": nsd,
        "hd95": hd95,
        "prediction_ml": int(np.count_nonzero(predicted)) * millilitres,
        "truth_ml": int(np.count_nonzero(true)) * millilitres,
    }


def missing_mask_scores(truth: Any, spacing: Sequence[float]) -> dict[str, float | None]:
    """Scores of an answer that gave no mask where one was asked for: Dice and NSD 0, even where the structure is not in
    the scan, for a model that never gives a mask must not be paid for silence."""
    true = _binary(truth, "truth")
    return segmentation_scores(np.zeros(true.shape, dtype=bool), true, spacing) | NO_MASK


def segmentation_metrics(
    cases: Iterable[Mapping[str, Any]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Mean of each figure per structure and over structures.

    Args:
        cases: one mapping a structure and scan with "label", "patient_id" and the figures of `segmentation_scores`.
    Returns:
        {"structures": {label: {metric: Estimate}}, "mean": {metric: Estimate}, "notes": [sentences]}. "mean" is the
        mean over structures of the structures' means, so that a rare structure weighs as much as a common one; its
        interval resamples patients across all structures together.
    """
    rows = list(cases)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    structures = {}
    for label in labels:
        chosen = [row for row in rows if row["label"] == label]
        owners = [row.get("patient_id") for row in chosen]
        structures[label] = {
            metric: bootstrap_mean([row.get(metric) for row in chosen], owners, resamples, seed) for metric in METRICS
        }
    bootstrap = PatientBootstrap([row.get("patient_id") for row in rows], resamples, seed)
    mean = {}
    for metric in METRICS:
        values = np.array([np.nan if row.get(metric) is None else row[metric] for row in rows], dtype=np.float64)
        member = np.array([[row["label"] == label for label in labels] for row in rows], dtype=bool)
        member = member.reshape(len(rows), len(labels))
        counted = member & np.isfinite(values)[:, None]
        point, drawn = bootstrap.sums(np.concatenate([np.nan_to_num(values)[:, None] * counted, counted], axis=1))
        by_label, drawn_by_label = (ratio(s[..., : len(labels)], s[..., len(labels) :]) for s in (point, drawn))
        mean[metric] = make_estimate(
            _mean_of_defined(by_label[None])[0],
            _mean_of_defined(drawn_by_label),
            int(counted.sum()),
            bootstrap.patients,
            "no case",
        )
        mean[metric]["structures"] = int(np.isfinite(by_label).sum())
    unmeasured = sum(row.get("hd95") is None for row in rows)
    both_empty = sum(row.get("truth_ml") == 0 and row.get("dice") == 1 for row in rows)
    notes = [
        f"On the source grid; NSD at {TOLERANCE_MM:g} mm, HD95 in mm. "
        f"Both masks empty: Dice 1, NSD 1, HD95 0 ({both_empty} of {len(rows)}); "
        f"just one empty: Dice 0, NSD 0, HD95 left out of its mean ({unmeasured} of {len(rows)}).",
    ]
    return {"structures": structures, "mean": mean, "notes": notes}


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its NaN entries; NaN where none is left."""
    return ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(-1).astype(np.float64))
