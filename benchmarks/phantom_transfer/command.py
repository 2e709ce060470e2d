"""Which feature of phantoms brings a model closer to people? Organ Dice on real CT after training on phantoms alone.

    python -m benchmarks.phantom_transfer --out runs/phantom_transfer --arms cumulative --minutes 20 \
        --open_kbp OPEN_KBP_FOLDER

OPEN_KBP_FOLDER holds OpenKBP as NIfTI: patients.json, train/ and validation/.

For each arm (`benchmarks.phantom_transfer.arms`): phantoms, a training of the 2D1D encoder and mask decoder on their
organs, and Dice on real CT.  A call trains for at most --minutes in all and then stops; the next call of the same
command goes on where it stopped, from the last checkpoint.  Arms that are done are not touched.  Written are
<out>/<arm>/scores.json, <out>/scores.json and <out>/table.md.  Options of train_encoder_2D1D.py may follow after `--`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from benchmarks.encoder_runs import ROOT, is_finished, train, write_json
from benchmarks.phantom_transfer.arms import Arm, arms_of, ensure_arm_phantoms
from benchmarks.phantom_transfer.real_truth import RealCase, check_folders, open_kbp_cases, real_ct_cases
from benchmarks.phantom_transfer.scoring import mean_by_organ, score_cases
from datasets.catalog import phantom_tasks
from datasets.errors import InputError, OneLineError


def training_command(phantoms: Path, run: Path, steps: int, minutes: float, more: Sequence[str]) -> list[str]:
    """The encoder script on the organs of the phantoms, with the demo's recipe for all that is not data."""
    return [
        *(sys.executable, str(ROOT / "train_encoder_2D1D.py"), "--preset", "tiny", "--recipe", "phantom"),
        *("--phantoms", str(phantoms), "--run_dir", str(run), "--cache", str(phantoms / "cache")),
        *("--kinds", "segmentation", "--task_weights", "phantom_segmentation=1", "--deep_only_tasks"),
        *("--max_iters", str(steps), "--eval_interval", "0", "--keep_checkpoints", "1", *more),
        *("--resume", "auto", "--max_minutes", f"{minutes:.2f}"),
    ]


def read_scores(out: Path) -> dict[str, dict]:
    """{arm: its scores.json} of all arms that are done."""
    files = sorted(out.glob("*/scores.json"))
    return {(content := json.loads(file.read_text(encoding="utf-8")))["arm"]: content for file in files}


def table(scores: Mapping[str, Mapping], order: Sequence[str]) -> str:
    """A Markdown table: a row an organ of a data set, a column an arm."""
    arms = [name for name in order if name in scores] + [name for name in scores if name not in order]
    organs = sorted({organ for name in arms for organ in scores[name]["dice"]})
    heads = [name if len(name) < 20 else "+" + name.rsplit("+", 1)[-1] for name in arms]
    lines = ["| Organ | " + " | ".join(heads) + " |", "| :--- |" + " ---: |" * len(arms)]
    for organ in organs:
        cells = [scores[name]["dice"].get(organ) for name in arms]
        lines.append(f"| {organ} | " + " | ".join("–" if value is None else f"{value:.3f}" for value in cells) + " |")
    return "\n".join(lines) + "\n"


def run_arm(arm: Arm, values: argparse.Namespace, more: Sequence[str], deadline: float) -> bool:
    """Phantoms, training and scores of one arm; False where the time was up before its end."""
    folder = values.out / arm.folder
    if (folder / "scores.json").is_file():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    phantoms, run = folder / "phantoms", folder / "run"
    ensure_arm_phantoms(arm, phantoms, values.count, values.seed, values.max_voxels, values.workers)
    if not is_finished(run, values.steps):
        left = (deadline - time.monotonic()) / 60
        if left > 0:
            train(training_command(phantoms, run, values.steps, max(left, 0.01), more), folder / "training.log")
        if not is_finished(run, values.steps):
            return False
    known = [label for task in phantom_tasks(phantoms) if task.kind == "segmentation" for label in task.labels]
    scores = score_cases(run, real_cases(values), known)
    content = {"arm": arm.name, "steps": values.steps, "count": values.count, "options": list(more)}
    write_json(folder / "scores.json", {**content, "dice": mean_by_organ(scores), "cases": scores})
    return True


def real_cases(values: argparse.Namespace) -> Iterator[RealCase]:
    """The real CTs whose folders are named; raises InputError where none is, or one is not there."""
    check_folders(values.real_ct, values.open_kbp)
    parts: list[Iterator[RealCase]] = []
    if values.real_ct is not None:
        parts.append(real_ct_cases(values.real_ct))
    if values.open_kbp is not None:
        parts.append(open_kbp_cases(values.open_kbp, values.patients))
    return chain(*parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status: 0 for all done, 3 where time was up."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phantom_transfer", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of all arms")
    parser.add_argument("--arms", nargs="+", default=["cumulative"], help="cumulative, left-out, or arms by name")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training in this call, all arms together")
    parser.add_argument("--steps", type=int, default=800, help="of each arm's training")
    parser.add_argument("--count", type=int, default=300, help="phantoms of each arm")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--max-voxels", type=float, default=6e5, help="of a phantom")
    parser.add_argument("--workers", type=int, default=1, help="processes that write phantoms")
    parser.add_argument("--real_ct", type=Path, help="folder of TotalSegmentator's example files")
    parser.add_argument("--open_kbp", type=Path, help="folder of OpenKBP; one of the two, or both")
    parser.add_argument("--patients", type=int, default=12, help="validation patients of OpenKBP that are scored")
    values = parser.parse_args(own)
    try:
        arms = arms_of(values.arms)
        if next(real_cases(values), None) is None:
            raise InputError(f"--patients {values.patients}: leaves no real CT to score; give 1 or more")
        values.out.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + 60 * values.minutes
        done = True
        for arm in arms:
            print(f"{arm.name}", flush=True)
            done = run_arm(arm, values, more, deadline)
            scores = read_scores(values.out)
            write_json(values.out / "scores.json", scores)
            text = table(scores, [each.name for each in arms])
            (values.out / "table.md").write_text(text, encoding="utf-8")
            if not done:
                print("time is up; the same command goes on from the last checkpoint")
                break
        if read_scores(values.out):
            print(text)
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if done else 3
