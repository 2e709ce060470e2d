"""COVID-CT: folds that keep patients whole, options that the encoder's script takes, runs that are made once."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import covid_ct
from benchmarks.covid import runs
from benchmarks.covid.folds import TASK, read_training, write_folds
from benchmarks.covid.runs import command_line, parse_options, run_encoder
from benchmarks.covid.table import scores_table
from datasets.errors import InputError
from datasets.volume.augmentation import Augmentation, AugmentationOptions
from train_encoder_2D1D import PRESETS, RECIPES, HyperParameters
from training.arguments import parse

CLASSES = ("affected COVID", "not affected COVID")


def write_manifest(folder: Path, patients: int = 12) -> list[dict]:
    """Two slices of each patient, with relative paths."""
    (folder / "images").mkdir()
    rows = []
    for number in range(2 * patients):
        (folder / "images" / f"{number}.png").write_bytes(b"")
        row = {"image_path": f"images/{number}.png", "disease_label": CLASSES[number // 2 % 2]}
        rows.append({**row, "patient_id": f"p{number // 2}"})
    (folder / f"{TASK}_train.json").write_text(json.dumps(rows))
    return rows


def test_folds_keep_patients_whole_and_cover_the_training_split(tmp_path: Path) -> None:
    rows = write_manifest(tmp_path)
    held_out: list[str] = []
    for folder in write_folds(tmp_path, tmp_path / "folds", 3):
        train, val = (json.loads((folder / f"{TASK}_{split}.json").read_text()) for split in ("train", "val"))
        assert not {row["patient_id"] for row in train} & {row["patient_id"] for row in val}
        assert len(train) == 16 and [row["disease_label"] for row in val].count(CLASSES[0]) == 4
        assert all(Path(row["image_path"]).is_file() for row in train + val)
        held_out += [Path(row["image_path"]).name for row in val]
    assert sorted(held_out) == sorted(Path(row["image_path"]).name for row in rows)
    for count in (1, 13):
        with pytest.raises(InputError, match=r"--folds .* patients \(12\)"):
            write_folds(tmp_path, tmp_path / "more", count)
    with pytest.raises(InputError, match=f"{TASK}_train.json: no such file"):
        read_training(tmp_path / "images")


def test_the_script_takes_the_options_and_they_are_what_they_say() -> None:
    words = command_line({**covid_ct.OPTIONS, "max_iters": 7})
    settings = parse(HyperParameters, PRESETS, words, recipes=RECIPES)
    settings.validate()
    names = {field.name for field in fields(HyperParameters)}
    assert set(covid_ct.OPTIONS) <= names
    assert settings.crop_size == (128, 96, 32) and settings.patch_max == 1 and settings.betas == (0.9, 0.99)
    assert settings.kinds == ("classification",) and settings.task_weights == (f"{TASK}=1",)
    assert settings.max_iters == 7 and settings.running_centre is True


def test_options_are_names_with_values() -> None:
    assert parse_options(["learning_rate=3e-4", "--betas=0.9 0.95"]) == {"learning_rate": "3e-4", "betas": "0.9 0.95"}
    with pytest.raises(InputError, match="--options fast: give NAME=VALUE"):
        parse_options(["fast"])


def write_script(path: Path, auc: float) -> Path:
    """A stand-in of the encoder's script: it writes scores where `--run_dir` says."""
    path.write_text(
        "import json, pathlib, sys\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "if given.get('--seed') == '13': sys.exit('error: no luck')\n"
        f"scores = {{f'{TASK}/' + name: {auc} for name in ('auc', 'accuracy', 'f1')}}\n"
        "held_out = given.get('--validation_split') == 'test' and given['--eval_only'] == 'True'\n"
        "name = 'test.json' if held_out else 'validation.json'\n"
        "(pathlib.Path(given['--run_dir']) / name).write_text(json.dumps(scores))\n"
    )
    return path


def test_a_run_is_made_once_for_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SCRIPT", write_script(tmp_path / "first.py", 0.25))
    assert run_encoder(tmp_path / "run", tmp_path, {"preset": "tiny"}, 5, 0)["auc"] == 0.25
    monkeypatch.setattr(runs, "SCRIPT", write_script(tmp_path / "second.py", 0.75))
    assert run_encoder(tmp_path / "run", tmp_path, {"preset": "tiny"}, 5, 0)["auc"] == 0.25
    assert run_encoder(tmp_path / "run", tmp_path, {"preset": "tiny"}, 6, 0)["auc"] == 0.75
    with pytest.raises(InputError, match=r"training\.log: second\.py ended with status 1: error: no luck"):
        run_encoder(tmp_path / "unlucky", tmp_path, {}, 5, 13)


def test_the_test_split_is_scored_by_runs_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SCRIPT", write_script(tmp_path / "first.py", 0.25))
    monkeypatch.setattr("sys.argv", ["covid_ct", "--run_dir", str(tmp_path / "run"), "--seeds", "0", "1"])
    covid_ct.main()
    monkeypatch.setattr(runs, "SCRIPT", write_script(tmp_path / "second.py", 0.75))
    monkeypatch.setattr("sys.argv", [*sys.argv, "--split", "test", "--manifest_dir", str(tmp_path)])
    covid_ct.main()
    of_split = {
        name: json.loads((tmp_path / "run" / name).read_text()) for name in ("results.json", "results_test.json")
    }
    assert [run["auc"] for run in of_split["results.json"][covid_ct.SCRATCH]] == [0.25, 0.25]
    assert [run["auc"] for run in of_split["results_test.json"][covid_ct.SCRATCH]] == [0.75, 0.75]
    assert runs.read_scores(tmp_path / "run" / "scratch" / "seed_0")["auc"] == 0.25, "validation stays what it was"
    monkeypatch.setattr("sys.argv", [*sys.argv, "--initial_vision", "runs/people"])
    with pytest.raises(InputError, match="from_runs_people/seed_0: holds no finished run; train first"):
        covid_ct.main()


def test_the_table_has_a_row_for_each_start(tmp_path: Path) -> None:
    scratch = [{"auc": auc, "accuracy": 0.5, "f1": 0.25} for auc in (0.7, 0.8, 0.9)]
    covid_ct.keep(tmp_path / "results.json", covid_ct.SCRATCH, scratch)
    name = covid_ct.name_of_start("runs/people")
    table = scores_table(covid_ct.keep(tmp_path / "results.json", name, scratch[:1])).splitlines()
    assert table[2:] == [
        "| random weights | 3 | 0.800 ± 0.100 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.700, 0.800, 0.900 |",
        "| from runs/people | 1 | 0.700 | 0.500 | 0.250 | 0.700 |",
    ]


def test_a_slice_is_moved_in_plane_alone() -> None:
    """A small affine change of an image of depth 1 keeps it in its plane: a disc stays a disc of about its area."""
    x, y = np.mgrid[:96, :80]
    disc = torch.from_numpy(((x - 48) ** 2 + (y - 40) ** 2 < 400).astype(np.float32))[None, ..., None]
    still = {"scale": 0.0, "shift": 0.0, "flip": 0.0, "affine": 1.0}
    options = AugmentationOptions(**still, affine_scale=0.0, affine_shift=5.0)  # type: ignore[arg-type]
    moved, masks = Augmentation(False, False, False, options)(disc, None, seed=1)
    assert masks is None and moved.shape == disc.shape and not torch.equal(moved, disc)
    assert moved.sum().item() == pytest.approx(disc.sum().item(), rel=0.02)
    places = np.argwhere(moved[0, ..., 0].numpy() > 0.5)
    assert np.abs(places.mean(0) - (48, 40)).max() <= 5.5
