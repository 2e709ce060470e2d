"""The command lines of the child processes: phantom pretraining, and training on a subset of patients."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.data_efficiency.plan import Run, Start
from benchmarks.encoder_runs import ROOT
from datasets.catalog import phantom_tasks
from datasets.phantom.people.structures import read_structures
from models.configuration import ENCODER_NAMES
from training.pretraining.open_kbp_recipe import OPEN_KBP_RECIPE

PHANTOM_TASKS = {
    "segmentation": "phantom_segmentation",
    "classification": "phantom_detail_classification",  # diseases, with side, number, size, zone and kind
    "image_text": "phantom_image_text",
}


_OF_THE_RUN = ("cache", "max_iters", "save_interval", "eval_interval", "log_interval", "validation_samples")


def recipe_mark() -> str:
    """A short hash of the recipes that runs of one folder have in common, but for what the commands here set anew."""
    scripts = {name: import_module(f"train_encoder_{name}").RECIPES for name in ENCODER_NAMES}
    recipes = {
        f"{name} {recipe}": {key: value for key, value in script[recipe].items() if key not in _OF_THE_RUN}
        for name, script in scripts.items()
        for recipe in ("open_kbp", "people", "phantom")
    }
    return hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Places:
    """Where everything lies.  out: folder of the whole measurement.  phantoms: of pretraining."""

    out: Path
    phantoms: Path

    @property
    def of_people(self) -> bool:
        """Whether the phantoms are people; raises InputError where their list of structures is damaged."""
        return read_structures(self.phantoms) is not None

    @property
    def text_encoder(self) -> Path:
        """One for all runs: a mask decoder that was pretrained with other embeddings would not know its labels."""
        return self.out / "text_encoder"

    @property
    def cache(self) -> Path:
        """Preprocessed patients."""
        return self.out / "cache"

    def pretraining(self, encoder: str, start: Start) -> Path:
        """Folder of a pretraining, with run/ and training.log."""
        return self.out / "pretraining" / encoder / start.name

    def run(self, run: Run) -> Path:
        """Folder of a training on patients, with run/, training.log and scores.json."""
        return self.out / "runs" / run.name

    def subset(self, run: Run) -> Path:
        """Folder with the manifest of its patients, the same for every encoder and start."""
        return self.out / "subsets" / f"{run.patients}_patients_seed_{run.seed}"


def _script(encoder: str, preset: str, recipe: str) -> list[str]:
    script = str(ROOT / f"train_encoder_{encoder}.py")
    # at tiny size one cube has the in-plane grid of 2D1D's two patches; a second one is resolution that 2D1D has not
    patches = ("--patch_max", "1") if preset == "tiny" and encoder != "2D1D" else ()
    return [sys.executable, script, "--preset", preset, *patches, "--recipe", recipe, "--precision", "autocast"]


def _samples() -> list[str]:
    """Whole volumes for all: a window of slices fills a share of 2D1D's patch and another of a cube."""
    return ["--window_slices", "0", "--micro_batch", "4", "--segmentation_micro_batch", "2"]


def _preprocessing() -> list[str]:
    """Of chest phantoms as of the patients, whose runs would else be refused what the pretraining learned."""
    return [
        *("--clip_hu", *(f"{hu:g}" for hu in OPEN_KBP_RECIPE["clip_hu"])),
        *("--normalisation", OPEN_KBP_RECIPE["normalisation"], "--resize", OPEN_KBP_RECIPE["resize"]),
    ]


def _field_of_view(preset: str) -> list[str]:
    """That of the patients' recipe for phantoms too, but all of both where the preset's slices are whole bodies."""
    millimetres = [f"{length:g}" for length in OPEN_KBP_RECIPE["field_of_view"]]
    return ["--field_of_view", *(millimetres if preset == "narrow" else ["none"])]


def _until(steps: int, minutes: float) -> list[str]:
    """No validation on the way: nothing is chosen by it."""
    return [
        *("--max_iters", str(steps), "--eval_interval", "0", "--save_interval", "0", "--keep_checkpoints", "1"),
        *("--resume", "auto", "--max_minutes", f"{max(minutes, 0.01):.2f}"),
    ]


def pretraining_command(
    places: Places, encoder: str, start: Start, preset: str, draws: int, minutes: float
) -> list[str]:
    """Phantom pretraining with the objectives of a start, of which each brings ``draws`` draws of its own.

    So the masks are learned as long in every start.  Which objective a step is of is drawn at random, all alike.
    Person phantoms have a recipe, with a window of HU and windows of slices of its own.
    """
    if places.of_people:
        script = _script(encoder, preset, "people")
    else:
        script = [*_script(encoder, preset, "phantom"), *_samples(), *_preprocessing()]
    chosen = [PHANTOM_TASKS[name] for name in start.objectives]
    weights = [f"{task.name}={int(task.name in chosen)}" for task in phantom_tasks(places.phantoms)]
    return [
        *script,
        *("--phantoms", str(places.phantoms), "--run_dir", str(places.pretraining(encoder, start) / "run")),
        *("--cache", str(places.phantoms / "cache"), "--text_encoder", str(places.text_encoder)),
        *_field_of_view(preset),
        *("--kinds", *start.objectives, "--task_weights", *weights, "--deep_only_tasks"),
        *_until(draws * len(start.objectives), minutes),
    ]


def run_command(
    places: Places, run: Run, preset: str, steps: int, minutes: float, more: Sequence[str] = ()
) -> list[str]:
    """Training on the patients of a subset.  more: further options of the encoder script."""
    start: list[str] = []
    if run.start.objectives:
        start += ["--initial_vision", str(places.pretraining(run.encoder, run.start) / "run")]
        start += ["--override_preprocessing"] * places.of_people
    return [
        *_script(run.encoder, preset, "open_kbp"),
        *_samples(),
        *("--manifest_dir", str(places.subset(run)), "--run_dir", str(places.run(run) / "run")),
        *("--cache", str(places.cache), "--text_encoder", str(places.text_encoder), "--seed", str(run.seed)),
        *_field_of_view(preset),
        *start,
        *more,
        *_until(steps, minutes),
    ]
