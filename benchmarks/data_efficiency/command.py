"""How many patients does an encoder need, and does phantom pretraining save any?

    python -m datasets.prepare open_kbp --source OPEN_KBP_FOLDER --out data/prepared
    python -m benchmarks.data_efficiency --manifest_dir data/prepared/pretraining --minutes 240 --jobs 2

OPEN_KBP_FOLDER holds OpenKBP as NIfTI: patients.json, train/ and validation/.

Dice of OpenKBP's validation patients against the number of training patients, for each encoder, from scratch and from
phantom pretraining with segmentation, classification and image-text added one by one; all at the same number of steps.
A call goes on for about --minutes and then stops; the next call of the same command goes on where it stopped, from the
last checkpoints.  Written are <out>/results.json, <out>/table.md and the figure, after every run.  Options of the
encoder scripts may follow after `--`; they go to the trainings on patients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from benchmarks.data_efficiency.carrying_out import Work, ensure_phantoms, ensure_text_encoder
from benchmarks.data_efficiency.commands import Places, recipe_mark
from benchmarks.data_efficiency.pictures import curves_figure, curves_table
from benchmarks.data_efficiency.plan import OBJECTIVES, Run, Start, chosen_starts, plan_runs, starts_of
from benchmarks.data_efficiency.results import Result, keep_settings, read_results
from benchmarks.data_efficiency.subsets import check_counts
from benchmarks.encoder_runs import ROOT, write_json
from benchmarks.segmentation_peer.volumes import read_records
from datasets.catalog import phantom_tasks
from datasets.errors import InputError, OneLineError
from datasets.prepare.sets.open_kbp import TASK
from datasets.whole_files import save_picture, write_whole_text
from models.configuration import ENCODER_NAMES

ALL_STARTS = starts_of(OBJECTIVES)
NAMES = ", ".join(start.name for start in ALL_STARTS)
RESULTS, TABLE, SETTINGS = "results.json", "table.md", "settings.json"


def parse_arguments(given: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and those of the encoder scripts."""
    own, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_efficiency", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/data_efficiency"), help="folder of all runs")
    parser.add_argument("--manifest_dir", type=Path, default=Path("data/prepared/pretraining"), help="with OpenKBP's")
    parser.add_argument("--phantoms", type=Path, help="to pretrain on, of any style; chest phantoms in OUT else")
    parser.add_argument("--count", type=int, default=300, help="chest phantoms, where there are none")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODER_NAMES), help="in the order of the runs")
    parser.add_argument("--starts", nargs="+", metavar="START", help=f"of {NAMES}; all by default")
    parser.add_argument("--patients", nargs="+", type=int, default=[10, 25, 50, 100, 170], help="to train on")
    parser.add_argument("--repeated", nargs="+", type=int, default=[10, 25], help="of these, with several seeds")
    parser.add_argument("--seeds", type=int, default=3, help="at --repeated; one elsewhere")
    parser.add_argument("--preset", default="tiny", help="size of the encoders")
    parser.add_argument("--steps", type=int, default=200, help="of every training on patients, of 2 volumes")
    parser.add_argument("--draws", type=int, default=200, help="of every objective in pretraining")
    parser.add_argument("--minutes", type=float, default=240.0, help="of this call")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share out the cores")
    parser.add_argument("--figure", type=Path, default=ROOT / "assets" / "data_efficiency.png", help="its file")
    return parser.parse_args(own), list(more)


def check_values(values: argparse.Namespace) -> None:
    """Raises InputError for a number that is too small, and for a start that no phantoms have."""
    least = {"count": 10, "seeds": 1, "steps": 1, "draws": 1, "jobs": 1}  # of fewer phantoms none would be held out
    for name, bound in least.items():
        if getattr(values, name) < bound:
            raise InputError(f"--{name} {getattr(values, name)}: give {bound} or more")
    chosen_starts(ALL_STARTS, values.starts)


def write_all(values: argparse.Namespace, starts: Sequence[Start]) -> str:
    """Write results, table and figure of all that is done; the table, empty where nothing is."""
    results = read_results(values.out / "runs")
    write_json(values.out / RESULTS, [result.to_dict() for result in results])
    if not results:
        return ""
    titles = [start.title for start in starts]
    text = curves_table(results, values.encoders, titles)
    write_whole_text(values.out / TABLE, text)
    save_picture(curves_figure(results, values.encoders, titles), values.figure, dpi=150)
    return text


def prepare(values: argparse.Namespace, more: Sequence[str]) -> tuple[Work, list[Run], list[Start]]:
    """Read the manifests, make what all runs share, and plan; raises InputError for what does not fit."""
    check_values(values)
    training, validation = (read_records(values.manifest_dir / f"{TASK}_{split}.json") for split in ("train", "val"))
    check_counts(training, values.patients)
    values.out.mkdir(parents=True, exist_ok=True)
    places = Places(values.out.resolve(), (values.phantoms or values.out / "phantoms").resolve())
    shared = {name: getattr(values, name) for name in ("preset", "steps", "draws")}
    shared["recipe"] = recipe_mark()
    folders = {"manifest_dir": str(values.manifest_dir.resolve()), "phantoms": str(places.phantoms)}
    keep_settings(values.out / SETTINGS, {**shared, **folders, "options": list(more)})
    if values.phantoms is None:
        ensure_phantoms(places.phantoms, values.count, values.jobs)
    ensure_text_encoder(places)
    kinds = {task.kind for task in phantom_tasks(places.phantoms) if task.path().is_file()}
    starts = starts_of(sorted(kinds))
    chosen = chosen_starts(starts, values.starts)
    runs = plan_runs(values.encoders, chosen, values.patients, values.repeated, values.seeds)
    deadline = time.monotonic() + 60 * values.minutes
    names = (values.preset, values.steps, values.draws)
    return Work(places, training, validation, *names, deadline, values.jobs, more), runs, starts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status: 0 for all done, 2 for bad input, 3 where time was up."""
    values, more = parse_arguments(list(sys.argv[1:] if arguments is None else arguments))
    try:
        work, runs, starts = prepare(values, more)
        one_at_a_time = Lock()

        def done(result: Result) -> None:
            with one_at_a_time:
                print(f"{result.encoder}, {result.start}, {result.patients} patients, seed {result.seed}: "
                      f"Dice {result.dice:.3f}", flush=True)  # fmt: skip
                write_all(values, starts)

        work.done = done
        finished = work.carry_out(runs)
        print(write_all(values, starts))
        if not finished:
            print("time is up; the same command goes on from the last checkpoints")
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if finished else 3
