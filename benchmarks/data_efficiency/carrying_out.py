"""The plan carried out: phantoms and text encoder once, each pretraining once, each run once, several at a time."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from benchmarks.data_efficiency.commands import Places, pretraining_command, run_command
from benchmarks.data_efficiency.plan import Run, Start
from benchmarks.data_efficiency.results import SCORES, Result
from benchmarks.data_efficiency.scoring import score_run
from benchmarks.data_efficiency.subsets import write_subset
from benchmarks.encoder_runs import is_finished, train, write_json
from datasets.cores import usable_cores
from datasets.errors import InputError
from datasets.label_descriptions import descriptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from datasets.pretraining_manifest import SegmentationRecord
from models.text.tiny_text_encoder import build_tiny_text_encoder

TEXT_WIDTH = 128


@dataclass
class Work:
    """All that the runs have in common.  deadline: by `time.monotonic`.  jobs: trainings at a time."""

    places: Places
    training: Sequence[SegmentationRecord]
    validation: Sequence[SegmentationRecord]
    preset: str
    steps: int
    draws: int
    deadline: float
    jobs: int = 1
    more: Sequence[str] = ()
    done: Callable[[Result], None] = lambda result: None
    _locks: dict[tuple[str, Start], Lock] = field(default_factory=dict)

    def carry_out(self, runs: Sequence[Run]) -> bool:
        """Do the runs that have no scores yet, in their order; False where time was up before the last.

        Raises InputError where a training fails, once the one beside it has come to its end.
        """
        for run in runs:
            if not self.places.subset(run).is_dir():
                write_subset(self.training, run.patients, run.seed, self.places.subset(run))
        self._locks = {(run.encoder, run.start): Lock() for run in runs}
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self.one, run) for run in runs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # an interrupt from the keyboard too
                self.deadline = 0.0
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return all(future.result() for future in futures)

    def one(self, run: Run) -> bool:
        """Pretraining where it is missing, training and scores of one run; False where time was up before its end."""
        folder = self.places.run(run)
        if (folder / SCORES).is_file():
            return True
        if not self._pretrained(run.encoder, run.start):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        command = run_command(self.places, run, self.preset, self.steps, self._minutes_left(), self.more)
        if not self._trained(command, folder, self.steps):
            return False
        cases = score_run(folder / "run", self.places.text_encoder, self.validation, self.places.cache)
        result = Result(run.encoder, run.start.title, run.patients, run.seed, cases)
        write_json(folder / SCORES, result.to_dict())
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)  # a hundred of them would fill a disk
        self.done(result)
        return True

    def _pretrained(self, encoder: str, start: Start) -> bool:
        if not start.objectives:
            return True
        folder = self.places.pretraining(encoder, start)
        with self._locks[encoder, start]:  # the other jobs wait for it, as they start from it too
            folder.mkdir(parents=True, exist_ok=True)
            left = self._minutes_left()
            command = pretraining_command(self.places, encoder, start, self.preset, self.draws, left)
            return self._trained(command, folder, self.draws * len(start.objectives))

    def _trained(self, command: Sequence[str], folder: Path, steps: int) -> bool:
        if is_finished(folder / "run", steps):
            return True
        if self._minutes_left() <= 0:
            return False
        threads = max(1, usable_cores() // self.jobs)
        train(command, folder / "training.log", {"OMP_NUM_THREADS": str(threads)})
        return is_finished(folder / "run", steps)

    def _minutes_left(self) -> float:
        return (self.deadline - time.monotonic()) / 60


def ensure_phantoms(folder: Path, count: int, workers: int) -> None:
    """Write chest phantoms where the folder has none."""
    if not (folder / "cases.json").is_file():
        write_dataset(DatasetOptions(folder, count, seed=0, split=(0.9, 0.1, 0.0)), workers)


def ensure_text_encoder(places: Places) -> None:
    """Make the text encoder of all runs from the descriptions of labels and the phantoms' reports.

    Raises InputError where the phantoms have no reports.
    """
    if places.text_encoder.is_dir():
        return
    path = places.phantoms / "pretraining" / "image_text_train.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; write phantoms with python -m datasets.phantom")
    reports = [row["report"] for row in json.loads(path.read_text(encoding="utf-8"))]
    draft = places.text_encoder.with_suffix(".part")
    build_tiny_text_encoder([*descriptions().values(), *reports], TEXT_WIDTH).save(draft)
    os.replace(draft, places.text_encoder)
