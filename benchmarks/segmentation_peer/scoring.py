"""Masks of held-out patients by sliding windows, and their scores on the source grid by the code that scores ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from benchmarks.segmentation_peer.volumes import BodyVolume, Normalisation, record_masks
from datasets.volume.geometry import AS_STORED, VolumeGeometry
from evaluation.metrics.segmentation import segmentation_metrics, segmentation_scores

OVERLAP = 0.5  # of neighbouring windows, nnU-Net's
THRESHOLD = 0.5  # of the sigmoid, as for ours

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
    """One row for each patient and annotated organ: label, patient_id, image_path and `segmentation_scores`.

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
            rows.append(
                {"label": label, "patient_id": record.patient_id or None, "image_path": record.image_path, **scores}
            )
        report(done, seconds)
    return rows, seconds / max(len(volumes), 1)


def summary(rows: Sequence[dict[str, Any]], tolerance_mm: float) -> dict[str, Any]:
    """Means with intervals, as `segmentation_metrics` gives them, with a note of this tolerance."""
    scored = segmentation_metrics(rows)
    note = f"On the source grid, organs that were contoured; NSD at {tolerance_mm:g} mm, HD95 in mm."
    return {**scored, "notes": [note]}
