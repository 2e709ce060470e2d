"""The encoder scripts as a user starts them, and what instruction tuning takes from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.pretrained_vision import load_pretrained_vision
from tests.launch import kill_when_saved, run, run_well
from tests.test_scripts import TINY


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
    write_dataset(DatasetOptions(folder, 8, split=(0.6, 0.4, 0.0), case=coarse))
    return folder


def arguments(encoder, phantoms, run_dir, recipe):
    """A run of three updates, at tiny size: an update is of eight draws as published, or of one."""
    draws = {"published": "24", "phantom": "3"}[recipe]
    script = [f"train_encoder_{encoder}.py", "--preset", "tiny", "--recipe", recipe, "--phantoms", str(phantoms)]
    return [*script, "--run_dir", str(run_dir), "--max_iters", draws, "--eval_interval", draws, "--micro_batch", "2"]


@pytest.mark.parametrize(
    ("encoder", "ranks", "recipe"),
    [
        ("2D1D", 2, "phantom"),
        pytest.param("2D1D", 1, "published", marks=pytest.mark.slow),
        pytest.param("2D1D", 2, "published", marks=pytest.mark.slow),
        pytest.param("ViT3D", 1, "published", marks=pytest.mark.slow),
        pytest.param("ViT3D", 2, "phantom", marks=pytest.mark.slow),
        pytest.param("ResNet3D", 1, "phantom", marks=pytest.mark.slow),
        pytest.param("ResNet3D", 2, "published", marks=pytest.mark.slow),
    ],
)
def test_an_encoder_trains_is_scored_and_serves_instruction_tuning(phantoms, tmp_path, encoder, ranks, recipe):
    script = arguments(encoder, phantoms, tmp_path / "run", recipe)
    trained = run(*script, ranks=ranks)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "What departs from the published recipe" in trained.stdout
    scores = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert {
        "phantom_classification/auc",
        "phantom_classification/zero_shot_auc",
        "phantom_segmentation/dice",
        "phantom_image_text/image_to_text_recall_5",
    } <= set(scores)
    again = run(*script, "--eval_only")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert repeated["step"] == scores["step"] == 3 and repeated["encoder"] == encoder
    assert repeated["phantom_segmentation/dice"] == pytest.approx(scores["phantom_segmentation/dice"], abs=1e-3)
    held_out = with_a_label_of_its_own(phantoms, tmp_path / "held_out.json")
    tuned = run(
        "train_CTInstruct.py",
        *TINY,
        *("--manifests", str(phantoms / "train.json"), "--run_dir", str(tmp_path / "tuned")),
        *("--validation_manifest", str(held_out), "--eval_interval", "1"),
        *("--pretrained_vision", str(tmp_path / "run"), "--max_iters", "1", "--grounded_start"),
        *("--query_text_encoder", str(tmp_path / "run" / "text_encoder")),
    )
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    config, _ = load_pretrained_vision(tmp_path / "run" / "checkpoints" / "step_000003" / "model")
    saved = json.loads((tmp_path / "tuned" / "checkpoints" / "step_000001" / "model" / "config.json").read_text())
    assert saved["vision"]["encoder"] == config.encoder == encoder
    assert saved["training"]["departures"]["grounded_start"] == {"published": False, "this_run": True}
    words = load_checkpoint(tmp_path / "tuned" / "checkpoints" / "step_000001" / "model").language_model
    table = words.get_input_embeddings().weight  # begun by `start_grounded`, which leaves its second half to images
    assert table[:, 64:].std() < 0.1 * table[:, :64].std()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(phantoms, tmp_path):
    """Two updates of eight draws: checkpoints, unlike max_iters and intervals, are numbered by updates."""
    whole, parts = (
        [*arguments("2D1D", phantoms, tmp_path / name, "published"), "--max_iters", "16", "--save_interval", "8"]
        for name in ("whole", "parts")
    )
    run_well(*whole)
    kill_when_saved(tmp_path / "parts", 1, *parts)
    assert not (tmp_path / "parts" / "checkpoints" / "step_000002").exists()
    run_well(*parts, "--resume")
    weights = [
        load_pretrained_vision(tmp_path / name / "checkpoints" / "step_000002" / "model")[1]
        for name in ("whole", "parts")
    ]
    assert [name for name, tensor in weights[0].items() if not torch.equal(tensor, weights[1][name])] == []


def with_a_label_of_its_own(phantoms: Path, path: Path) -> Path:
    """A manifest of one question that asks for a mask by a name that no training question has."""
    records = json.loads((phantoms / "train.json").read_text())
    record = next(r for r in records if r["task"] == "segmentation" and len(r["labels"]) == 1)
    (value,) = record["mask_values"].values()
    record |= {"labels": ["gallbladder"], "mask_values": {"gallbladder": value}}
    record |= {name: str(phantoms / record[name]) for name in ("image_path", "mask_path")}
    path.write_text(json.dumps([record]))
    return path


def test_missing_manifests_are_all_named_at_once(tmp_path):
    failed = run("train_encoder_2D1D.py", "--manifest_dir", str(tmp_path), "--run_dir", str(tmp_path / "run"))
    assert failed.returncode == 2
    line = next(line for line in failed.stderr.splitlines() if line.startswith("error:"))
    assert "39 of 39 tasks" in line and "--skip_missing_tasks" in line
