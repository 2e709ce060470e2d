"""One record of the instruction manifest: its fields, and what must hold between them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from datasets.mask_files import (
    Box,
    MaskSource,
    MaskValue,
    boxes_by_file,
    check_boxes,
    refuse_values_of_others,
    values_by_file,
)
from datasets.vocabulary import DISEASE_CONFIDENCE, SEGMENTATION, TASK_TOKENS, TASKS, Task, diagnosis_facts, diseases_of

YES_OR_NO = re.compile(r"\s*(yes|no)\s*([.,!]|$)", re.IGNORECASE)
REPORT_WORDS = 40
MaskFiles = str | list[str | list[str]]


class QuestionPart(BaseModel):
    """One piece of a question, in reading order: a volume, or text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["image", "text"]
    text: str | None = None

    @model_validator(mode="after")
    def _text_has_text(self) -> QuestionPart:
        if self.type == "text" and not (self.text and self.text.strip()):
            raise ValueError("a part of type 'text' needs a non-empty text")
        return self


class InstructionRecord(BaseModel):
    """One question about zero, one or several volumes, and its answer.

    The k-th image part is the k-th path of ``image_path``.  The k-th ``<SEG>`` of the answer is the k-th entry of
    ``labels``; its mask is the k-th file of ``mask_path``, which may also be one multi-label file for all.  Of a file
    the voxels with the value or values ``mask_values[label]`` count; of a list of files all that are not 0 where a
    label has no value.  The k-th ``<disease_confidence>`` is the k-th disease of ``label_set``, and its
    truth is ``targets[disease]`` (1, 0, or null for unknown; a missing one is unknown).

    In a manifest an entry of ``labels`` may be a list: its mask is the union of these structures.  The record's
    label is then their names joined by "and", and ``unions`` has the names.  An entry of ``mask_path`` may be a list
    too, of files that are joined: as many as the entry of ``labels`` has structures are one each.  With ``mask_boxes``,
    which has a box or false for each file in the same order, a file holds that box of the stored array alone (see
    `datasets.mask_files`), and has no values.

    ``hu_offset`` is added to what the volumes' files hold: -1000 where that is HU + 1000.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    question: list[QuestionPart] = Field(min_length=1)
    image_path: list[str] = []
    answer: str
    id: str = ""
    patient_id: str = ""
    task: Task = "open_vqa"
    labels: list[str] = []
    unions: dict[str, list[str]] = {}  # what a label that names several structures is made of
    mask_path: MaskFiles | None = None
    mask_values: dict[str, int | list[int]] | None = None
    mask_boxes: list[list[Box | None]] | None = None
    hu_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    mask_image: int = 0  # which of the question's volumes the masks belong to
    label_set: str | None = None
    targets: dict[str, Literal[0, 1] | None] = {}
    choices: dict[str, str] | None = None

    @field_validator("question", mode="before")
    @classmethod
    def _question_may_be_text(cls, value: Any) -> Any:
        return [{"type": "image"}, {"type": "text", "text": value}] if isinstance(value, str) else value

    @field_validator("image_path", mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("mask_boxes", mode="before")
    @classmethod
    def _absent_has_no_box(cls, value: Any) -> Any:
        return boxes_by_file(value)

    @field_validator("answer")
    @classmethod
    def _answer_has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value

    @field_validator("label_set")
    @classmethod
    def _label_set_is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in diagnosis_facts():
            raise ValueError(f"{value!r} is not one of {', '.join(diagnosis_facts())}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _task_from_content(cls, values: Any) -> Any:
        """A record that names no task gets the one that its fields tell."""
        if isinstance(values, dict) and "task" not in values:
            return {**values, "task": told_task(values)}
        return values

    @model_validator(mode="before")
    @classmethod
    def _structures_of_labels(cls, values: Any) -> Any:
        """An entry of `labels` that is a list gets a name."""
        labels = values.get("labels") if isinstance(values, dict) else None
        if not isinstance(labels, list) or not any(isinstance(entry, list) for entry in labels):
            return values
        unions = {" and ".join(map(str, entry)): entry for entry in labels if isinstance(entry, list)}
        names = [" and ".join(map(str, entry)) if isinstance(entry, list) else entry for entry in labels]
        return {**values, "labels": names, "unions": unions}

    @model_validator(mode="after")
    def _parts_fit(self) -> InstructionRecord:
        images = sum(part.type == "image" for part in self.question)
        if images != len(self.image_path):
            raise ValueError(f"question: {images} image parts for {len(self.image_path)} image_path entries")
        masks = self.answer.count(SEGMENTATION)
        if masks != len(self.labels):
            raise ValueError(f"labels: {len(self.labels)} entries for {masks} {SEGMENTATION} in the answer")
        if masks:
            self._check_masks()
        elif self.mask_boxes:
            raise ValueError(f"mask_boxes: given, but the answer has no {SEGMENTATION}")
        confidences = self.answer.count(DISEASE_CONFIDENCE)
        if confidences:
            if self.label_set is None:
                raise ValueError(f"label_set: needed, since the answer has {DISEASE_CONFIDENCE}")
            expected = len(diseases_of(self.label_set))
            if confidences != expected:
                raise ValueError(
                    f"answer: {confidences} {DISEASE_CONFIDENCE} for {expected} diseases of {self.label_set}"
                )
        if self.targets:
            if self.label_set is None:
                raise ValueError("label_set: needed, since targets are given")
            unknown = sorted(set(self.targets) - set(diseases_of(self.label_set)))
            if unknown:
                raise ValueError(f"targets: {unknown[0]!r} is not a disease of {self.label_set}")
        return self

    def _check_masks(self) -> None:
        if not self.image_path:
            raise ValueError("image_path: a segmentation answer needs a volume")
        if not 0 <= self.mask_image < len(self.image_path):
            raise ValueError(f"mask_image: {self.mask_image} for {len(self.image_path)} volumes")
        if self.mask_path is None:
            raise ValueError(f"mask_path: needed, since the answer has {SEGMENTATION}")
        if not all(self.structures):
            raise ValueError("labels: each needs one structure or more")
        if isinstance(self.mask_path, list):
            if len(self.mask_path) != len(self.labels):
                raise ValueError(f"mask_path: {len(self.mask_path)} files for {len(self.labels)} labels")
            files = [1 if isinstance(entry, str) else len(entry) for entry in self.mask_path]
            if not all(files):
                raise ValueError("mask_path: each label needs one file or more")
            for structures, count in zip(self.structures, files, strict=True):
                values_by_file(structures, count, self.mask_values or {})
            refuse_values_of_others(self.mask_values or {}, [name for entry in self.structures for name in entry])
            if self.mask_boxes is not None:
                check_boxes(self.mask_boxes, files)
                if self.mask_values:
                    raise ValueError("mask_values: a file that holds a box has none; leave them out, or mask_boxes")
        else:
            asked = [structure for entry in self.structures for structure in entry]
            missing = [structure for structure in asked if structure not in (self.mask_values or {})]
            if missing:
                raise ValueError(f"mask_values: no value for {missing[0]!r} in the multi-label file {self.mask_path}")
            if self.mask_boxes is not None:
                raise ValueError(
                    "mask_boxes: a multi-label file has none; give a file a label in mask_path, or no boxes"
                )

    def mask_source(self, number: int) -> MaskSource:
        """Where the true mask of the answer's k-th ``<SEG>`` is, counted from 0."""
        if isinstance(self.mask_path, list):
            entry = self.mask_path[number]
            files = [entry] if isinstance(entry, str) else entry
            boxes = self.mask_boxes[number] if self.mask_boxes is not None else None
            values = values_by_file(self.structures[number], len(files), self.mask_values or {})
            return MaskSource.of_files(files, values, boxes)
        if self.mask_path is None or self.mask_values is None:
            raise ValueError(f"{self.id}: has no masks")
        return MaskSource.of_files([self.mask_path], values_by_file(self.structures[number], 1, self.mask_values))

    @property
    def whole_values(self) -> list[MaskValue] | None:
        """The value or values of each label in `whole_files`; None where all voxels that are not 0 count."""
        if not self.mask_values:
            return None
        return [self.mask_source(number).values for number in range(len(self.labels))]

    @property
    def structures(self) -> list[list[str]]:
        """The structures of each label: itself, or those that it is the union of."""
        return [self.unions.get(label, [label]) for label in self.labels]

    @property
    def whole_files(self) -> str | list[str] | None:
        """`mask_path` where each label has one file of the volume's size, or all have one; None otherwise."""
        if isinstance(self.mask_path, str):
            return self.mask_path
        files = [entry for entry in self.mask_path or [] if isinstance(entry, str)]
        return files if self.mask_boxes is None and len(files) == len(self.labels) else None

    @property
    def text(self) -> str:
        """The question's words, without its volumes."""
        return " ".join(part.text for part in self.question if part.text)

    def target_vector(self) -> list[float]:
        """The truth for each disease of the label set, in head order, nan where unknown."""
        truth = (self.targets.get(disease) for disease in diseases_of(self.label_set)) if self.label_set else ()
        return [float("nan") if value is None else float(value) for value in truth]


def told_task(values: Mapping[str, Any]) -> Task:
    """The task of a record that names none: by its tokens, choices, or an answer of yes or no; else `open_vqa`.

    A report is told by ``<report_generation>`` in the question alone.
    """
    answer, question = str(values.get("answer")), json.dumps(values.get("question"), default=str)
    if SEGMENTATION in answer:
        return "segmentation"
    if DISEASE_CONFIDENCE in answer:
        return "diagnosis"
    if values.get("choices"):
        return "multiple_choice"
    named = [task for task in TASKS if TASK_TOKENS.get(task, "") and TASK_TOKENS[task] in question]
    if named and named[0] not in ("segmentation", "diagnosis"):
        return named[0]
    return "yes_no" if YES_OR_NO.match(answer) else "open_vqa"


def may_be_report(record: InstructionRecord) -> bool:
    """Whether an answer that is taken as an open one is as long as a report."""
    return record.task == "open_vqa" and len(record.answer.split()) >= REPORT_WORDS
