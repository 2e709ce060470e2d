"""2D1D as a classifier of single slices: COVID-CT (UCSD-AI4H), official split, several seeds.

    python -m datasets.prepare ucsd_covid_ct --source COVID_CT_FOLDER --out data/prepared
    python -m benchmarks.covid_ct --manifest_dir data/prepared/pretraining
    python -m benchmarks.covid_ct --manifest_dir data/prepared/pretraining --initial_vision runs/phantom_compact

    python -m benchmarks.covid_ct --manifest_dir data/held_out/pretraining --split test

COVID_CT_FOLDER holds COVID-CT as downloaded: CT_COVID/, CT_NonCOVID/ and Data-split/, unpacked.

Each run is a run of train_encoder_2D1D.py with the options below; `--folds` compares options within the training split.
A run that is there is not made again, and the table has a row for each start that run_dir holds.  `--split test` scores
the runs that are there on the test slices, whose manifest may be the only one of its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.covid.folds import TASK, write_folds
from benchmarks.covid.runs import parse_options, run_encoder, score_test
from benchmarks.covid.table import Scores, scores_table
from datasets.errors import InputError
from training.arguments import parse
from training.script import run_script

SCRATCH = "random weights"
RESULTS = {"val": ("results.json", "table.md"), "test": ("results_test.json", "table_test.md")}  # in run_dir

# Of train_encoder_2D1D.py.  A slice of 300 x 200 pixels, no HU: whole, at the size of one patch; any flip is a slice.
OPTIONS: dict[str, Any] = {
    "preset": "compact",
    "kinds": "classification",
    "task_weights": f"{TASK}=1",
    "skip_missing_tasks": True,
    "orientation": "RAS",
    "patch_max": 1,
    "override_preprocessing": True,
    "normalisation": "window",  # a grey level is what the journal's window made of some HU, so levels are kept
    "clip_hu": "-1350 150",  # that window, for the CTs of a start; images themselves have levels from black to white
    "validation_samples": 1000,
    "workers": 0,
    "augment_flip": 0.5,
    "augment_scale_by": 0.2,
    "augment_shift_by": 0.2,
    "augment_affine": 0.8,
    "augment_affine_degrees": 15,
    "augment_affine_scale": 0.2,
    "augment_affine_shift": 8,
    "running_centre": True,
    "micro_batch": 16,
    "accumulation_steps": 1,
    "optimizer": "Muon",
    "zero_stage": 0,
    "precision": "autocast",  # float32 weights, products in bf16
    "learning_rate": 1e-3,
    "betas": "0.9 0.99",
    "weight_decay": 0.05,
    "attention_rate": 0.25,
    "projection_rate": 10,
    "warmup": 0.05,
    "warmup_shape": "linear",
    "schedule_updates": 0,
    "log_interval": 20,
    "save_interval": 0,
    "keep_checkpoints": 1,
}


@dataclass
class HyperParameters:
    """Train 2D1D on COVID-CT and score it on the official validation split, or on folds of the training split."""

    manifest_dir: str = "data/prepared/pretraining"  # holds UCSD-AI4H_disease_classification_train.json and _val.json
    run_dir: str = "runs/covid_ct"  # folder for the runs, results.json and table.md
    seeds: tuple[int, ...] = (0, 1, 2)  # a run each
    initial_vision: str = ""  # a pretrained folder of the same preset to start from; none: random weights
    steps: int = 600  # of 16 images
    split: Literal["val", "test"] = "val"  # test: the runs that are there are scored on it, by their own options
    folds: int = 0  # so many folds of the training split in place of the official validation; 0 for the latter
    options: tuple[str, ...] = ()  # NAME=VALUE of train_encoder_2D1D.py, over those that are written here


def name_of_start(initial_vision: str) -> str:
    """What the table calls a start."""
    return f"from {initial_vision}" if initial_vision else SCRATCH


def runs_of(settings: HyperParameters) -> list[Scores]:
    """The scores of every seed, or of every fold with the first seed."""
    options = {**OPTIONS, "cache": f"{settings.run_dir}/cache", **parse_options(settings.options)}
    if settings.initial_vision:
        options["initial_vision"] = settings.initial_vision
    base, start = Path(settings.run_dir), "scratch"
    if settings.initial_vision:  # each start has a folder of its own
        start = re.sub(r"[^\w.-]+", "_", name_of_start(settings.initial_vision))
    if settings.folds:
        folders = write_folds(Path(settings.manifest_dir), base / f"{settings.folds}_folds", settings.folds)
        places = [(folder / start, folder, settings.seeds[0]) for folder in folders]
    else:
        places = [(base / start / f"seed_{seed}", Path(settings.manifest_dir), seed) for seed in settings.seeds]
    found: list[Scores] = []
    for folder, manifest_dir, seed in places:
        if settings.split == "test":
            found.append(score_test(folder, manifest_dir))
        else:
            found.append(run_encoder(folder, manifest_dir, options, settings.steps, seed))
        print(f"{folder}: AUC {found[-1]['auc']:.3f}", flush=True)
    return found


def keep(path: Path, name: str, found: list[Scores]) -> Mapping[str, list[Scores]]:
    """Put the scores of this start into the file of results, and give all that it holds."""
    results: dict[str, list[Scores]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results[name] = found
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def main() -> None:
    """Command line."""
    settings = parse(HyperParameters)
    if not settings.seeds or settings.steps < 1:
        raise InputError("--seeds and --steps: give one seed or more, and one step or more")
    if settings.folds and settings.split == "test":
        raise InputError("--folds are of the training split; leave out --split test, or --folds")
    found = runs_of(settings)
    name = name_of_start(settings.initial_vision)
    if settings.folds:
        print(scores_table({f"{name}, {settings.folds} folds of the training split": found}))
        return
    results, table_name = RESULTS[settings.split]
    table = scores_table(keep(Path(settings.run_dir) / results, name, found))
    (Path(settings.run_dir) / table_name).write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    run_script(main)
