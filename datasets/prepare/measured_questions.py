"""Questions that a data set measures in its voxels: asked of every case by several processes, and as records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from datasets.errors import InputError
from datasets.prepare.case import Case, Question
from datasets.prepare.data_set import Asker, Measured
from datasets.prepare.pretraining_rows import hu_field, mask_fields
from datasets.prepare.processes import in_processes
from datasets.prepare.progress import shown

Record = dict[str, Any]


def measured_questions(
    measured: Measured, cases: Sequence[Case], seed: int = 0, workers: int = 1
) -> tuple[dict[str, list[Question]], dict[str, list[str]]]:
    """The questions of each case, by its id; and what is wrong with files, by case."""
    questions: dict[str, list[Question]] = {}
    faults: dict[str, list[str]] = {}
    found = in_processes(partial(_asked, measured.ask, seed), cases, workers, chunk=4)
    for case, (asked, fault) in shown(
        zip(cases, found, strict=True), len(cases), f"{measured.name}: questions from voxels"
    ):
        if fault:
            faults[case.id] = [fault]
        else:
            questions[case.id] = asked
    return questions, faults


def measured_rows(case: Case, questions: Sequence[Question]) -> Iterator[Record]:
    """Records of a case's questions; their ids are <case>/<kind>_<number>, the number counted from 0 in each kind."""
    counts: dict[str, int] = {}
    for question in questions:
        number = counts[question.kind] = counts.get(question.kind, -1) + 1
        yield {
            "id": f"{case.id}/{question.kind}_{number}",
            **({"task": question.task} if question.task else {}),
            "question": [{"type": "image"}, {"type": "text", "text": question.text}],
            "image_path": str(case.image),
            "answer": question.answer,
            "patient_id": case.patient,
            **_masks(case, question.labels),
            **({"choices": dict(question.choices)} if question.choices else {}),
            **hu_field(case),
        }


def kind_of(record_id: str) -> str:
    """The kind of a measured question, from its record's id; empty for an id of another form."""
    _, slash, last = record_id.rpartition("/")
    kind, _, number = last.rpartition("_")
    return kind if slash and number.isdigit() else ""


def _masks(case: Case, labels: Sequence[str]) -> Record:
    return {"labels": list(labels), **mask_fields({label: case.masks[label] for label in labels})} if labels else {}


def _asked(ask: Asker, seed: int, case: Case) -> tuple[list[Question], str]:
    """The questions, or none and what is wrong."""
    try:
        return ask(case, seed), ""
    except InputError as error:
        return [], str(error)
