"""Dice of a run's masks on held-out patients, on the grid of their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.segmentation_peer.volumes import record_masks
from datasets.pretraining_manifest import SegmentationRecord
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import AS_STORED, VolumeGeometry
from datasets.volume.restore import restore_masks
from evaluation.metrics.segmentation import dice
from models.checkpoints.pretrained_vision import load_pretraining
from models.checkpoints.run_folder import resolve_model_folder
from models.text.label_embeddings import label_embeddings

Cases = dict[str, dict[str, float]]  # Dice by patient and organ


@torch.no_grad()
def score_run(run: Path, text_encoder: Path, records: Sequence[SegmentationRecord], cache: Path) -> Cases:
    """Dice of every organ that was contoured in a patient, by the newest checkpoint of a run folder.

    text_encoder: the one of the training.  cache: folder of preprocessed volumes.  Raises InputError where a file
    cannot be read.
    """
    model = load_pretraining(resolve_model_folder(run)).eval()
    loader = VolumeLoader(model.vision.preprocessing, cache)
    every = list(dict.fromkeys(label for record in records for label in record.labels))
    embeddings = label_embeddings(str(text_encoder), every, model.vision.config.query_width)
    cases: Cases = {}
    for record in records:
        volume, geometry = loader.volume(record.image_path, record.hu_offset)
        queries = torch.stack([embeddings[label] for label in record.labels])
        logits = model.vision.decode_masks(model.encode([volume])[0], queries, project=False)
        found = restore_masks(logits.float(), volume.placement).numpy()
        whole = VolumeGeometry.of_source(
            geometry.source, geometry.source_shape, np.asarray(geometry.source_affine), AS_STORED, geometry.axes_from
        )
        truth = record_masks(record, whole)
        cases[record.patient_id] = {
            label: round(dice(geometry.to_source(mask.astype(np.uint8)) > 0, true), 4)
            for label, mask, true in zip(record.labels, found, truth, strict=True)
        }
    return cases
