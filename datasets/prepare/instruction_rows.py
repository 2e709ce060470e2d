"""Cases as records of instruction manifests: the questions of the tuning tasks and of the benchmarks.

A benchmark asks each thing once: all confidences of a volume, every structure that is present, every report, every
question.  Training asks in more ways (see `InstructionBuilder`), for a structure at most once a volume.  All choices
come from seed, task and case, so other cases keep their questions when some are added.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.label_descriptions import canonical
from datasets.mask_files import mask_file
from datasets.prepare.case import Case, Question
from datasets.prepare.instruction_builder import InstructionBuilder
from datasets.prepare.pretraining_rows import hu_field, mask_fields
from datasets.prepare.progress import shown
from datasets.prepare.uses import QuestionTask, classes_of, taken_by
from datasets.vocabulary import diseases_of

Record = dict[str, Any]


@dataclass(frozen=True)
class QuestionWriter:
    """Questions of one task.

    benchmark: each thing once, instead of training's ways to ask.
    present: by case the structures that have a voxel; of a case that is not there all are taken to have one.
    """

    task: QuestionTask
    benchmark: bool = False
    seed: int = 0
    present: Mapping[str, Collection[str]] | None = None

    def rows(self, cases: Sequence[Case]) -> list[Record]:
        """The records of all cases, with ids."""
        builder = InstructionBuilder(self.seed, self.task.label_set)
        rows: list[Record] = []
        for case in shown(cases, len(cases), f"{self.task.name}: questions"):
            if not taken_by(case, self.task.name):
                continue
            builder.random = _seeded(self.seed, self.task.name, case.id)
            for number, row in enumerate(self._questions(case, builder)):
                rows.append({"id": f"{case.id}/{number}", **row, **hu_field(case)})
        return rows

    def _questions(self, case: Case, builder: InstructionBuilder) -> Iterator[Record]:
        row: Record = {"image_path": str(case.image), "patient_id": case.patient}
        kind = self.task.kind
        if kind == "diagnosis":
            yield from self._diagnosis(case, row, builder)
        elif kind == "segmentation":
            yield from self._segmentation(case, row, builder)
        elif kind == "report":
            if case.report.strip():
                yield from builder.report({**row, "report": case.report})
        else:
            for question in case.questions:
                yield _asked(row, question, openly=kind == "open_questions", builder=builder)
            told = any(question.task == "report_generation" for question in case.questions)
            if case.report.strip() and kind == "questions" and not self.benchmark and not told:
                yield from builder.report({**row, "report": case.report})

    def _diagnosis(self, case: Case, row: Record, builder: InstructionBuilder) -> Iterator[Record]:
        classes = classes_of(case)
        if self.task.label_set:
            known = {canonical(disease): disease for disease in diseases_of(self.task.label_set)}
            classes = {known[canonical(label)]: value for label, value in classes.items() if canonical(label) in known}
        if any(value is not None for value in classes.values()):
            row = {**row, "disease_label": dict(classes)}
            asks_all = self.benchmark and self.task.label_set is not None  # labels of one's own have no head
            yield from builder.diagnosis(row) if asks_all else builder.classification(row)

    def _segmentation(self, case: Case, row: Record, builder: InstructionBuilder) -> Iterator[Record]:
        labels = self._present_structures(case)
        if not labels:
            return
        for group in [[label] for label in labels] if self.benchmark else [labels]:
            if case.record is None:
                masks = mask_fields({label: case.masks[label] for label in group})
                yield from builder.segmentation({**row, "labels": group, **masks})
            else:
                folder = case.record["renorm_segmentation_dir"]
                masks = {"mask_path": [mask_file(folder, label) for label in group]}
                for record in builder.segmentation({**row, "labels": group, **masks}):
                    yield record | _boxes(case.record, record["labels"])

    def _present_structures(self, case: Case) -> list[str]:
        if case.record is not None:
            labels, boxes = case.record["labels"], case.record.get("renorm_y1x1z1_y2x2z2")
            given = zip(labels, boxes or [True] * len(labels), strict=True)
            return [label for label, box in given if box and self.task.takes(label)]
        present = (self.present or {}).get(case.id)
        return [label for label in case.masks if self.task.takes(label) and (present is None or label in present)]


def _asked(row: Record, question: Question, openly: bool, builder: InstructionBuilder) -> Record:
    """A question as the data set words it; its choices follow in their order where it does not name them itself."""
    text, answer, choices = question.text.strip(), question.answer.strip(), dict(question.choices or {})
    if choices:
        letter = next((letter for letter in choices if answer.rstrip(".)").upper() == letter.upper()), None)
        letter = letter or next((letter for letter, choice in choices.items() if choice == answer), None)
        right = choices[letter] if letter else answer
        if openly or question.task == "open_vqa" or letter is None:
            answer, choices = right, {}
        else:
            answer = builder.templates["multiple_choice"]["answer"].format(letter=letter, choice=right)
            if not all(choice.casefold() in text.casefold() for choice in choices.values()):
                text += " Choices: " + " ".join(f"{letter}. {choice}" for letter, choice in choices.items())
    if openly:
        task = "open_vqa"
    elif question.task:
        task = question.task
    elif choices:
        task = "multiple_choice"
    else:
        task = "yes_no" if answer.strip(" .").lower() in ("yes", "no") else "open_vqa"
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    record = {"task": task, "question": parts, "answer": answer, **row}
    return record | ({"choices": choices} if choices else {})


def _boxes(record: Mapping[str, Any], chosen: Sequence[str]) -> Record:
    """Where in a preprocessed crop of SAT-DS the masks of some labels lie; nothing where they have its size."""
    labels, boxes = list(record["labels"]), record.get("renorm_y1x1z1_y2x2z2")
    return {"mask_boxes": [[list(boxes[labels.index(label)])] for label in chosen]} if boxes else {}


def _seeded(seed: int, task: str, case: str) -> random.Random:
    digest = hashlib.sha256(f"{seed}/{task}/{case}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
