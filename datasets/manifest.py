"""The instruction manifest: a JSON list of questions about volumes, with answers, and masks or labels where asked for.

The published format is ``{question: [{type: image}, {type: text, text}], image_path, answer}``; all else is optional.
Its fields for masks and targets (see `datasets.published_instructions`) are read as well as ours, which
`InstructionRecord` explains.  Paths are relative to the manifest's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from datasets.manifest_rows import Fault, ManifestError, complaints, read_rows, refuse_rows
from datasets.mask_files import Box, MaskSource, all_values, boxes_by_file, check_boxes
from datasets.published_instructions import PUBLISHED_FIELDS, from_published, is_published
from datasets.vocabulary import DISEASE_CONFIDENCE, SEGMENTATION, Task, diagnosis_facts, diseases_of

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
    ``labels``; its mask is the k-th file of ``mask_path``, or, where that is one multi-label file, the voxels whose
    value is ``mask_values[label]``.  The k-th ``<disease_confidence>`` is the k-th disease of ``label_set``, and its
    truth is ``targets[disease]`` (1, 0, or null for unknown; a missing one is unknown).

    In a manifest an entry of ``labels`` may be a list: its mask is the union of these structures.  The record's
    label is then their names joined by "and", and ``unions`` has the names.  An entry of ``mask_path`` may be a list
    too, of files that are joined.  With ``mask_boxes``, which has a box or false for each file in the same order, a
    file holds that box of the stored array alone (see `datasets.mask_files`).
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
            answer = values.get("answer")
            told = (
                "segmentation"
                if isinstance(answer, str) and SEGMENTATION in answer
                else "diagnosis"
                if isinstance(answer, str) and DISEASE_CONFIDENCE in answer
                else "multiple_choice"
                if values.get("choices")
                else "open_vqa"
            )
            return {**values, "task": told}
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
            if self.mask_boxes is not None:
                files = [1 if isinstance(entry, str) else len(entry) for entry in self.mask_path]
                check_boxes(self.mask_boxes, files)
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
            boxes = self.mask_boxes[number] if self.mask_boxes is not None else None
            return MaskSource([entry] if isinstance(entry, str) else entry, boxes=boxes)
        values = self.mask_values_of(self.labels)
        if self.mask_path is None or values is None:
            raise ValueError(f"{self.id}: has no masks")
        return MaskSource([self.mask_path], values[number])

    def mask_values_of(self, labels: Sequence[str]) -> list[int | list[int]] | None:
        """The value or values of each label in the multi-label file; None where each label has a file of its own."""
        if isinstance(self.mask_path, list) or self.mask_values is None:
            return None
        parts = [self.unions.get(label, [label]) for label in labels]
        return [all_values([self.mask_values[name] for name in names]) for names in parts]

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


def load_manifest(path: str | Path, check_files: bool = True) -> list[InstructionRecord]:
    """Read and validate a manifest; the records come back with absolute paths and with ids (``stem/row`` where absent).

    Args:
        path: the JSON file.
        check_files: also see that every image and mask exists.

    Raises:
        ManifestError: not a JSON list of records; names file, row and field, and how many more rows are wrong.
    """
    path = Path(path)
    folder = path.parent.resolve()
    known = [*InstructionRecord.model_fields, *PUBLISHED_FIELDS]
    records: list[InstructionRecord] = []
    faults: list[Fault] = []
    for row, values in enumerate(read_rows(path)):
        try:
            record = InstructionRecord.model_validate(
                from_published(values, folder) if is_published(values) else values
            )
        except ValidationError as error:
            faults += [(row, complaint) for complaint in complaints(error, known)]
            continue
        except ValueError as error:
            faults.append((row, f"field {error}"))
            continue
        record = _with_absolute_paths(record, path, row)
        missing = _missing_files(record) if check_files else []
        faults += [(row, complaint) for complaint in missing]
        records.append(record)
    seen: dict[str, int] = {}
    for row, record in enumerate(records):
        if not faults and record.id in seen:
            faults.append((row, f"id: {record.id!r} was already given by row {seen[record.id]}"))
        seen.setdefault(record.id, row)
    refuse_rows(path, faults)
    if not records:
        raise ManifestError(f"{path}: the list is empty")
    return records


def manifest_texts(records: Iterable[InstructionRecord]) -> list[str]:
    """Every question and answer, to learn a tokenizer from."""
    return [text for record in records for text in (record.text, record.answer)]


def _with_absolute_paths(record: InstructionRecord, manifest: Path, row: int) -> InstructionRecord:
    folder = manifest.parent.resolve()

    def absolute(name: str) -> str:
        return str(folder / name)

    def located(masks: MaskFiles | None) -> MaskFiles | None:
        if isinstance(masks, list):
            return [absolute(entry) if isinstance(entry, str) else list(map(absolute, entry)) for entry in masks]
        return absolute(masks) if masks else masks

    changes = {
        "image_path": [absolute(name) for name in record.image_path],
        "mask_path": located(record.mask_path),
        "id": record.id or f"{manifest.stem}/{row}",
    }
    changes["patient_id"] = record.patient_id or (record.image_path[0] if record.image_path else changes["id"])
    return record.model_copy(update=changes)


def _missing_files(record: InstructionRecord) -> list[str]:
    """A complaint for each file of a record with absolute paths that is not there."""
    masks: list[str] = []
    if isinstance(record.mask_path, str):
        masks = [record.mask_path]
    elif record.mask_path is not None:
        masks = [path for number in range(len(record.mask_path)) for path in record.mask_source(number).needed]
    found = [("image_path", name) for name in record.image_path] + [("mask_path", name) for name in masks]
    return [f"field {field}: no such file: {name}" for field, name in found if name and not Path(name).exists()]
