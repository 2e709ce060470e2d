"""The encoder scripts as a user starts them, what they score, and what instruction tuning takes from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from datasets.phantom import DatasetOptions, write_dataset
from datasets.phantom_case import CaseOptions
from evaluation.pretraining import _classification_scores, _in_order, _retrieval_scores, dice_per_mask
from models.pretrained_vision import load_pretrained_vision
from tests.test_scripts import TINY, start


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
    write_dataset(DatasetOptions(folder, 8, split=(0.6, 0.4, 0.0), case=coarse))
    return folder


def arguments(phantoms, run_dir):
    return ["--preset", "tiny", "--phantoms", str(phantoms), "--cache", "", "--run_dir", str(run_dir)]


@pytest.mark.parametrize(
    ("encoder", "ranks"),
    [
        ("2D1D", 2),
        pytest.param("ViT3D", 1, marks=pytest.mark.slow),
        pytest.param("ResNet3D", 1, marks=pytest.mark.slow),
    ],
)
def test_an_encoder_trains_is_scored_and_serves_instruction_tuning(phantoms, tmp_path, encoder, ranks):
    script = [f"train_encoder_{encoder}.py", *arguments(phantoms, tmp_path / "run")]
    trained = start(*script, "--max_iters", "3", "--eval_interval", "3", "--micro_batch", "2", ranks=ranks)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    scores = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert {
        "phantom_classification/auc",
        "phantom_segmentation/dice",
        "phantom_image_text/image_to_text_recall_5",
    } <= set(scores)
    again = start(*script, "--eval_only")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert repeated["phantom_segmentation/dice"] == pytest.approx(scores["phantom_segmentation/dice"], abs=1e-3)
    tuned = start(
        "train_CTInstruct.py",
        *TINY,
        *("--manifests", str(phantoms / "train.json"), "--run_dir", str(tmp_path / "tuned")),
        *("--pretrained_vision", str(tmp_path / "run"), "--max_iters", "1"),
    )
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    config, _ = load_pretrained_vision(tmp_path / "run" / "checkpoints" / "step_000003" / "model")
    saved = json.loads((tmp_path / "tuned" / "checkpoints" / "step_000001" / "model" / "config.json").read_text())
    assert saved["vision"]["encoder"] == config.encoder == encoder


def test_missing_manifests_are_all_named_at_once(tmp_path):
    failed = start("train_encoder_2D1D.py", "--manifest_dir", str(tmp_path), "--run_dir", str(tmp_path / "run"))
    assert failed.returncode == 2
    line = next(line for line in failed.stderr.splitlines() if line.startswith("error:"))
    assert "39 of 39 tasks" in line and "--skip_missing_tasks" in line


def test_dice_ignores_padding_and_counts_voxels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 6, 7, generator=generator)
    masks = torch.randint(-1, 2, (3, 5, 6, 7), generator=generator)
    logits[2], masks[2] = -1.0, masks[2].clamp(max=0)  # empty in both
    expected = []
    for logit, mask in zip(logits.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True):
        pairs = [(value > 0, target == 1) for value, target in zip(logit, mask, strict=True) if target != -1]
        both, total = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
        expected.append(2 * both / total if total else 1.0)
    assert dice_per_mask(logits, masks).tolist() == pytest.approx(expected)


def test_recall_counts_the_pairs_that_rank_high_enough():
    rng = np.random.default_rng(0)
    rows = [{"image": rng.normal(size=4), "text": rng.normal(size=4)} for _ in range(30)]
    scores = _retrieval_scores(rows)
    for k in (1, 5, 10):
        hits = 0
        for i, row in enumerate(rows):
            ranked = sorted(range(30), key=lambda j, row=row: -float(row["image"] @ rows[j]["text"]))
            hits += i in ranked[:k]
        assert scores[f"image_to_text_recall_{k}"] == pytest.approx(hits / 30)
        assert scores[f"chance_recall_{k}"] == pytest.approx(k / 30)


def test_labels_of_one_class_are_left_out_of_the_auc():
    rows = [
        {"scores": np.array([0.9, 0.2, 0.4]), "target": np.array([1.0, 0.0, np.nan])},
        {"scores": np.array([0.1, 0.6, 0.3]), "target": np.array([0.0, 0.0, 1.0])},
    ]
    scores = _classification_scores(rows)
    assert scores["auc"] == 1.0 and scores["f1"] == 1.0
    assert scores["accuracy"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)


def test_rows_dealt_to_ranks_come_back_in_order():
    rows = list(range(7))
    assert _in_order([rows[0::3], rows[1::3], rows[2::3]], 7) == rows
