"""The manifests that a data set is made into: which there are, and their records.

pretraining/<task>_{train,val,test}.json   for --manifest_dir
instruction/<task>.json, <task>_val.json   of the tuning tasks; <task>_test.json of those without a benchmark
instruction/<name>_{train,val,test}.json   of the questions that a data set measures in its voxels
instruction/mixture.json                   all tuning manifests with their published weights, for --manifests
benchmarks/<name>.json                     for --benchmark_dir: test split
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from datasets.manifest import InstructionRecord
from datasets.manifest_rows import complaints
from datasets.mixture import published_weights
from datasets.prepare.case import Case, Question, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.instruction_rows import QuestionWriter
from datasets.prepare.measured_questions import measured_rows
from datasets.prepare.pretraining_rows import pretraining_rows
from datasets.prepare.splits import SPLITS
from datasets.prepare.uses import BENCHMARKS, QuestionTask, pretraining_task, question_task

Record = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """path: in the folder of all data sets.  task: of either stage, or a benchmark."""

    path: str
    task: str
    rows: list[Record]


def paths_of(task: str, data_set: DataSet) -> list[str]:
    """Every manifest that a task of a data set may have."""
    if task in data_set.pretraining:
        return [f"pretraining/{task}_{split}.json" for split in SPLITS]
    if task in data_set.instruction:
        names = [f"instruction/{task}.json", f"instruction/{task}_val.json"]
        return names if task in published_weights() else [*names, f"instruction/{task}_test.json"]
    if data_set.measured is not None and task == data_set.measured.name:
        return [f"instruction/{task}_{split}.json" for split in SPLITS]
    return [f"benchmarks/{task}.json"]


def tasks_of(data_set: DataSet) -> list[str]:
    """The tasks of both stages and the benchmarks of a data set."""
    measured = [data_set.measured.name] if data_set.measured is not None else []
    return [*data_set.pretraining, *data_set.instruction, *measured, *data_set.benchmarks]


def segmentation_takers(data_set: DataSet, cases: Sequence[Case], without: Collection[str]) -> list[QuestionTask]:
    """The tuning tasks and benchmarks that ask for structures."""
    return [task for task in _question_tasks(data_set, cases, without) if task.kind == "segmentation"]


def build_manifests(
    data_set: DataSet,
    cases: Sequence[Case],
    seed: int = 0,
    present: Mapping[str, Collection[str]] | None = None,
    without: Collection[str] = (),
    measured: Mapping[str, Sequence[Question]] | None = None,
) -> tuple[list[Manifest], dict[str, list[str]]]:
    """The manifests that have records; and what the project's own loaders say against a case, by case.

    present: see `QuestionWriter`.  without: tasks that another data set makes.  measured: questions by case.
    """
    manifests: list[Manifest] = []
    faults: dict[str, list[str]] = {}
    by_split = {split: [case for case in cases if case.split == split] for split in SPLITS}
    for name in data_set.pretraining:
        if name in without:
            continue
        task = pretraining_task(name)
        for split, path in zip(SPLITS, paths_of(name, data_set), strict=True):
            rows, wrong = pretraining_rows(by_split[split], task)
            manifests.append(Manifest(path, name, rows))
            for case, line in wrong.items():
                faults.setdefault(case, []).append(line)
    for question in _question_tasks(data_set, cases, without):
        benchmark = question.name in data_set.benchmarks
        splits: tuple[Split, ...] = ("test",) if benchmark else SPLITS
        for split, path in zip(splits, paths_of(question.name, data_set), strict=False):
            rows = QuestionWriter(question, split == "test", seed, present).rows(by_split[split])
            manifests.append(Manifest(path, question.name, rows))
            for case, line in _instruction_faults(rows, path).items():
                faults.setdefault(case, []).append(line)
    if data_set.measured is not None and data_set.measured.name not in without:
        name = data_set.measured.name
        for split, path in zip(SPLITS, paths_of(name, data_set), strict=True):
            rows = [row for case in by_split[split] for row in measured_rows(case, (measured or {}).get(case.id, ()))]
            manifests.append(Manifest(path, name, rows))
            for case, line in _instruction_faults(rows, path).items():
                faults.setdefault(case, []).append(line)
    return [manifest for manifest in manifests if manifest.rows], faults


def _question_tasks(data_set: DataSet, cases: Sequence[Case], without: Collection[str]) -> list[QuestionTask]:
    tasks = [question_task(name, cases) for name in data_set.instruction if name not in without]
    return tasks + [BENCHMARKS[name] for name in data_set.benchmarks if name not in without]


def _instruction_faults(rows: Sequence[Record], path: str) -> dict[str, str]:
    """By case what the loader of instruction manifests says against its questions; the first alone."""
    faults: dict[str, str] = {}
    for row in rows:
        try:
            InstructionRecord.model_validate(row)
        except ValidationError as error:
            case = str(row["id"]).rpartition("/")[0]
            faults.setdefault(
                case, f"{row['image_path']}: {path}, {complaints(error, InstructionRecord.model_fields)[0]}"
            )
    return faults
