"""The encoder learns on phantoms for some minutes, by its own training script: the losses, and steps a second.

    python -m benchmarks.gpu.learning [--rehearsal] [--seconds 215]

The recipe is that of the demo (`--recipe phantom`), at full size, with float32 weights under bf16 autocast; the text
encoder is the tiny one, and so the queries of masks are narrower than published ones.  The run's own history is what is
read, so that a run that is ended by force has told what it learned.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.encoder_runs import ROOT
from benchmarks.gpu.scale import Given, given
from datasets.cores import usable_cores
from datasets.errors import InputError
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from training.script import run_script

STARTING, SAVING = 25.0, 10.0  # seconds until the loop begins, and for its end; a checkpoint is not waited for
MOST_MINUTES = 3.0
FALL = 0.9  # the loss at the end is to be at most this share of that at the beginning
PARTS = 5  # beginning and end are a fifth of the steps each


def rows_of(history: Path) -> list[dict[str, Any]]:
    """The rows of a history that hold losses; one that is cut short is passed over."""
    rows = []
    for line in history.read_text(encoding="utf-8").splitlines() if history.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "train/loss" in row:
            rows.append(row)
    return rows


def begin_and_end(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last fifth of the values, at least one of each."""
    count = max(1, len(values) // PARTS)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def learn(run: Given, phantoms: Path, seconds: float) -> tuple[Path, bool]:
    """Train for what is left of `seconds`: the history, and whether all went well, being late included."""
    folder = run.work / "learning"
    minutes = min(MOST_MINUTES, max(seconds - STARTING - SAVING, 5.0) / 60)
    options = {
        "preset": run.scale.vision,
        "recipe": "phantom",
        "phantoms": str(phantoms),
        "cache": str(run.work / "cache"),
        "run_dir": str(folder),
        "text_encoder": "tiny",
        "precision": "autocast",
        "max_minutes": f"{minutes:.3f}",
        "max_iters": str(run.scale.updates),
        "log_interval": "1",
        "eval_interval": "0",
        "check_data": "off",
        "workers": str(min(12, usable_cores()) if not run.rehearsal else 0),
    }
    command = [sys.executable, "train_encoder_2D1D.py"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    print(" ".join(command), flush=True)
    status = 0
    process = subprocess.Popen(command, cwd=ROOT)  # of this part's process group, which is ended as a whole
    try:
        status = process.wait(timeout=seconds - 2)
        run.figures.keep(training_status=status)
    except subprocess.TimeoutExpired:
        run.figures.keep(training_status="ended while it saved its checkpoint, or was late")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return folder / "history.jsonl", status == 0


def tell(run: Given, rows: Sequence[dict[str, Any]]) -> None:
    """The figures of a history."""
    if len(rows) < 2:
        run.figures.add("loss on phantoms, of that at the beginning", None, target=FALL, at_least=False)
        return
    seconds = [row["train/seconds"] for row in rows]
    typical = sorted(seconds)[len(seconds) // 2]
    waited = sum(row["train/data_seconds"] for row in rows) / sum(seconds)
    note = (
        f"{len(rows)} steps in {sum(seconds):.0f} s, the median {typical:.3f} s, {100 * waited:.0f} % waiting for data"
    )
    run.figures.add("training steps", len(rows) / sum(seconds), "/s", note=note)
    begin, end = begin_and_end([row["train/loss"] for row in rows])
    note = f"from {begin:.3f} to {end:.3f}, means of the first and last fifth of the steps"
    run.figures.add("loss on phantoms, of that at the beginning", end / begin, target=FALL, at_least=False, note=note)
    tasks = sorted({name for row in rows for name in row if name.endswith("/loss") and name != "train/loss"})
    for task in tasks:
        begin, end = begin_and_end([row[task] for row in rows if task in row])
        run.figures.add(f"{task}, at the end", end, note=f"at the beginning {begin:.3f}")
    run.figures.keep(losses=[row["train/loss"] for row in rows])


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    begun = monotonic()
    run, _ = given("learning", __doc__)
    phantoms = run.work / "phantoms"
    if not (phantoms / "train.json").is_file():
        case = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0)) if run.rehearsal else CaseOptions()
        write_dataset(DatasetOptions(phantoms, run.scale.phantoms, case=case), workers=usable_cores())
    print(f"{run.scale.phantoms} phantoms after {monotonic() - begun:.0f} s", flush=True)
    history, done = learn(run, phantoms, run.seconds - (monotonic() - begun))
    tell(run, rows_of(history))
    if not done:
        raise InputError("training failed; see the log")


if __name__ == "__main__":
    run_script(main)
