"""Dice of the curves: masks go back onto the grid of the files and are compared with the contours there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.data_efficiency import scoring
from benchmarks.segmentation_peer.volumes import read_records
from datasets.prepare.sets.open_kbp import TASK
from datasets.volume.anyres import place_mask, plan
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from models.configuration import VISION_PRESETS
from models.pretraining import PretrainingModel
from models.vision import VisionModel

SHAPE = (40, 44, 36)
BOXES = {
    "mandible": (slice(8, 20), slice(8, 22), slice(6, 20)),
    "larynx": (slice(24, 34), slice(20, 34), slice(20, 30)),
}


def write_patient(folder: Path) -> None:
    """A body of HU 40 in air and two organs, stored as P, L, I."""
    rng = np.random.default_rng(0)
    ct, organs = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)
    ct[3:-3, 3:-3, 3:-3] = 40 + rng.integers(-20, 20, (34, 38, 30))
    for value, (name, box) in zip((7, 6), BOXES.items(), strict=True):
        organs[box] = value
        ct[box] += 300 if name == "mandible" else 60
    affine = np.array([[0, -4.0, 0, 0], [-4.0, 0, 0, 0], [0, 0, -2.5, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(ct, affine), folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(organs, affine), folder / "organs.nii.gz")
    row = {
        "image_path": "ct.nii.gz",
        "labels": ["mandible", "larynx"],
        "mask_path": "organs.nii.gz",
        "mask_values": {"mandible": 7, "larynx": 6},
        "patient_id": "a",
    }
    (folder / f"{TASK}_val.json").write_text(json.dumps([row]))


def test_masks_are_scored_on_the_files_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_patient(tmp_path)
    model = PretrainingModel(VisionModel(VISION_PRESETS["tiny"]))
    model.vision.preprocessing = Preprocessing.standard((64, 64, 64), 1)
    model.vision.config = replace(model.vision.config, crop_size=(64, 64, 64), patch_max=1)
    _, geometry = load_volume(tmp_path / "ct.nii.gz", preprocessing=model.vision.preprocessing)
    stored = np.zeros((2, *SHAPE), np.int8)
    stored[0][BOXES["mandible"]] = 1
    near = list(BOXES["larynx"])
    near[2] = slice(25, 30)  # half of the larynx
    stored[1][tuple(near)] = 1
    loaded = np.stack([geometry.from_source(mask) for mask in stored])
    logits = place_mask(torch.from_numpy(loaded.copy()), plan(geometry.shape, (64, 64, 64), 1)).float() - 0.5
    monkeypatch.setattr(model, "encode", lambda volumes: volumes)
    monkeypatch.setattr(model.vision, "decode_masks", lambda *_, **__: logits)
    monkeypatch.setattr(scoring, "load_pretraining", lambda _: model)
    monkeypatch.setattr(scoring, "label_embeddings", lambda _, labels, width: {n: torch.zeros(width) for n in labels})
    records = read_records(tmp_path / f"{TASK}_val.json")
    for _ in range(2):  # read, then from the cache
        cases = scoring.score_run(tmp_path, tmp_path, records, tmp_path / "cache")
        assert list(cases) == ["a"]
        assert cases["a"]["mandible"] > 0.93
        assert cases["a"]["larynx"] == pytest.approx(2 / 3, abs=0.06)  # half of it found: 2 * 0.5 / 1.5
