"""Masks of held-out patients by sliding windows, and their scores on the source grid by the code that scores ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from benchmarks.segmentation_peer.volumes import BodyVolume, Normalisation, record_masks
from datasets.volume.geometry import AS_STORED, VolumeGeometry
from evaluation.metrics.segmentation import dice, segmentation_metrics, segmentation_scores

OVERLAP = 0.5  # of neighbouring windows, nnU-Net's
THRESHOLD = 0.5  # of the sigmoid, as for ours

OWN_SLICES = "own_slices_dice"

Predictor = Callable[[BodyVolume], np.ndarray]  # -> masks (organs, w, h, d) bool on the grid of the volume's crop


def window_predictor(
    network: nn.Module, normalisation: Normalisation, patch: tuple[int, int, int], bf16: bool
) -> Predictor:
    """Masks of a volume in HU by windows of the patch's size, weighed by a Gaussian; what is outside the body is none.

    MONAI pads a volume that is smaller than a window, with the value of air.
    """
    network.eval()

    def predict(volume: BodyVolume) -> np.ndarray:
        image = torch.from_numpy(normalisation(volume.image).astype(np.float32))[None, None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = sliding_window_inference(
                image,
                patch,
                sw_batch_size=1,
                predictor=lambda window: network(window.contiguous(memory_format=torch.channels_last_3d)).float(),
                overlap=OVERLAP,
                mode="gaussian",
                cval=normalisation.air,
            )
        return np.asarray((logits[0].sigmoid() > THRESHOLD).numpy())

    return predict


def score_volumes(
    volumes: Sequence[BodyVolume],
    organs: Sequence[str],
    predict: Predictor,
    tolerance_mm: float,
    report: Callable[[int, float], None] = lambda done, seconds: None,
) -> tuple[list[dict[str, Any]], float]:
    """One row for each patient and annotated organ: label, patient_id, image_path, all scores, own_slices_dice.

    report: told how many volumes are done, and the seconds they took.  Returns the rows and the mean seconds a volume
    of predicting alone.
    """
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for done, volume in enumerate(volumes, 1):
        began = time.monotonic()
        masks = predict(volume)
        seconds += time.monotonic() - began
        crop, record = volume.geometry, volume.record
        whole = VolumeGeometry.of_source(
            crop.source, crop.source_shape, np.asarray(crop.source_affine), AS_STORED, crop.axes_from
        )
        for label, truth in zip(record.labels, record_masks(record, whole), strict=True):
            mask = crop.to_source(masks[organs.index(label)])
            scores = segmentation_scores(mask, truth, whole.spacing, tolerance_mm)
            within = own_slices_dice(mask, truth, slice_axis(whole.affine))
            names = {"label": label, "patient_id": record.patient_id or None, "image_path": record.image_path}
            rows.append({**names, **scores, OWN_SLICES: within})
        report(done, seconds)
    return rows, seconds / max(len(volumes), 1)


def slice_axis(affine: Any) -> int:
    """Which axis of an array with this affine runs from the feet to the head, or back."""
    return next(axis for axis, code in enumerate(nib.aff2axcodes(np.asarray(affine))) if code in ("S", "I"))


def own_slices_dice(prediction: np.ndarray, truth: np.ndarray, axis: int) -> float:
    """Dice of the slices along `axis` in which the true mask has a voxel, of all slices where it has none.

    Where a contour ends is in part a habit of the clinic, and no fault of the network's.
    """
    held = truth.astype(bool).any(tuple(other for other in range(truth.ndim) if other != axis))
    slices = np.flatnonzero(held) if held.any() else np.arange(truth.shape[axis])
    return dice(*(np.take(mask.astype(bool), slices, axis) for mask in (prediction, truth)))


def own_slices_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The mean of `own_slices_dice` over organs with its interval; None where rows are older than it."""
    if not all(OWN_SLICES in row for row in rows):
        return None
    scored = segmentation_metrics([{**row, "dice": row[OWN_SLICES]} for row in rows])
    return dict(scored["mean"]["dice"])


def summary(rows: Sequence[dict[str, Any]], tolerance_mm: float) -> dict[str, Any]:
    """Means with intervals, as `segmentation_metrics` gives them, with a note of this tolerance."""
    scored = segmentation_metrics(rows)
    note = f"On the source grid, organs that were contoured; NSD at {tolerance_mm:g} mm, HD95 in mm."
    return {**scored, "notes": [note]}
