"""Runs of train_encoder_2D1D.py on the task, and what they score."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.covid.folds import TASK
from datasets.errors import InputError
from training.pretraining.settings import SCORES

SCRIPT = Path(__file__).resolve().parents[2] / "train_encoder_2D1D.py"
OPTIONS = "options.json"
LAST_LINES = 5
FIGURES = ("auc", "accuracy", "f1")


def run_encoder(
    folder: Path, manifest_dir: Path, options: Mapping[str, Any], steps: int, seed: int
) -> dict[str, float]:
    """Train once, from random weights or those that `initial_vision` among the options names; scores of `val`.

    The scores are of the last step: no checkpoint is chosen by them.  A folder that holds the scores of a run with the
    same options is not run again.  Raises InputError with the end of the log where the script fails.
    """
    given = {**options, "manifest_dir": str(manifest_dir), "max_iters": steps, "eval_interval": steps, "seed": seed}
    done = folder / OPTIONS
    if not (done.is_file() and json.loads(done.read_text(encoding="utf-8")) == given):
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        _run_script({**given, "run_dir": str(folder), "overwrite": True}, folder / "training.log")
        done.write_text(json.dumps(given), encoding="utf-8")
    return read_scores(folder)


def score_test(folder: Path, manifest_dir: Path) -> dict[str, float]:
    """Scores of a run that is there, by its own options, on the test split of a folder that needs no other one.

    Nothing is trained.  Raises InputError where the folder holds no finished run, or with the end of the log where the
    script fails.
    """
    if not (folder / OPTIONS).is_file():
        raise InputError(f"{folder}: holds no finished run; train first, without --split test")
    options = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    of_test = {"manifest_dir": str(manifest_dir), "eval_only": True, "validation_split": "test"}
    _run_script({**options, **of_test, "run_dir": str(folder)}, folder / "test.log")
    return read_scores(folder, "test")


def _run_script(options: Mapping[str, Any], log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        words = [sys.executable, str(SCRIPT), *command_line(options)]
        status = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
    if status.returncode:
        end = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        raise InputError(f"{log}: {SCRIPT.name} ended with status {status.returncode}: {end}")


def command_line(options: Mapping[str, Any]) -> list[str]:
    """--name value for each; a value of several words, as "128 96 32", is given as so many."""
    return [word for name, value in options.items() for word in (f"--{name}", *str(value).split())]


def read_scores(folder: Path, split: str = "val") -> dict[str, float]:
    """AUC, accuracy and F1 of the task's images of a split."""
    scores = json.loads((folder / SCORES[split]).read_text(encoding="utf-8"))
    return {name: float(scores[f"{TASK}/{name}"]) for name in FIGURES}


def parse_options(items: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE items as a mapping; InputError for one that is not so."""
    options = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise InputError(f"--options {item}: give NAME=VALUE, as learning_rate=3e-4")
        options[name.removeprefix("--")] = value
    return options
