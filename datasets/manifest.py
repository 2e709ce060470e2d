"""The instruction manifest: a JSON list of questions about volumes, with answers, and masks or labels where asked for.

The published format is ``{question: [{type: image}, {type: text, text}], image_path, answer}``; all else is optional.
Paths are relative to the manifest's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from datasets.errors import InputError
from datasets.vocabulary import DISEASE_CONFIDENCE, SEGMENTATION, Task, diagnosis_facts, diseases_of


class ManifestError(InputError):
    """A manifest cannot be used; the message names file, row and field."""


class QuestionPart(BaseModel):
    """One piece of a question, in reading order: a volume, or text."""

    model_config = ConfigDict(frozen=True)
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
    """

    model_config = ConfigDict(frozen=True)
    question: list[QuestionPart] = Field(min_length=1)
    image_path: list[str] = []
    answer: str
    id: str = ""
    patient_id: str = ""
    task: Task = "open_vqa"
    labels: list[str] = []
    mask_path: str | list[str] | None = None
    mask_values: dict[str, int | list[int]] | None = None
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
        if isinstance(self.mask_path, list):
            if len(self.mask_path) != len(self.labels):
                raise ValueError(f"mask_path: {len(self.mask_path)} files for {len(self.labels)} labels")
        else:
            missing = [label for label in self.labels if label not in (self.mask_values or {})]
            if missing:
                raise ValueError(f"mask_values: no value for {missing[0]!r} in the multi-label file {self.mask_path}")

    def mask_values_of(self, labels: Sequence[str]) -> list[int | list[int]] | None:
        """The value or values of each label in the multi-label file; None where each label has a file of its own."""
        if isinstance(self.mask_path, list) or self.mask_values is None:
            return None
        return [self.mask_values[label] for label in labels]

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
    rows = read_rows(path)
    records: list[InstructionRecord] = []
    errors: list[tuple[int, str]] = []
    for row, values in enumerate(rows):
        try:
            record = InstructionRecord.model_validate(values)
        except ValidationError as error:
            errors.append((row, first_complaint(error)))
            continue
        record = _with_absolute_paths(record, path, row)
        missing = _missing_files(record) if check_files else None
        if missing:
            errors.append((row, missing))
        else:
            records.append(record)
    seen: dict[str, int] = {}
    for row, record in enumerate(records):
        if not errors and record.id in seen:
            errors.append((row, f"id: {record.id!r} was already given by row {seen[record.id]}"))
        seen.setdefault(record.id, row)
    refuse_rows(path, errors)
    if not records:
        raise ManifestError(f"{path}: the list is empty")
    return records


def manifest_texts(records: Iterable[InstructionRecord]) -> list[str]:
    """Every question and answer, to learn a tokenizer from."""
    return [text for record in records for text in (record.text, record.answer)]


def read_rows(path: Path) -> list:
    """The list in a manifest file, its records not yet looked at; ManifestError where there is none."""
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(rows, list):
        raise ManifestError(f"{path}: must hold a JSON list of records, not {type(rows).__name__}")
    return rows


def first_complaint(error: ValidationError) -> str:
    """The first complaint as ``field a.b: what``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"field {where}: {what}" if where else f"field {what}"


def refuse_rows(path: Path, errors: Sequence[tuple[int, str]]) -> None:
    """Where there are (row, reason) pairs, ManifestError with the first and the number of the others."""
    if errors:
        row, reason = errors[0]
        more = f" (and {len(errors) - 1} more rows)" if len(errors) > 1 else ""
        raise ManifestError(f"{path}: row {row}, {reason}{more}")


def _with_absolute_paths(record: InstructionRecord, manifest: Path, row: int) -> InstructionRecord:
    folder = manifest.parent.resolve()

    def absolute(name: str) -> str:
        return str(folder / name)

    masks = record.mask_path
    changes = {
        "image_path": [absolute(name) for name in record.image_path],
        "mask_path": [absolute(name) for name in masks] if isinstance(masks, list) else masks and absolute(masks),
        "id": record.id or f"{manifest.stem}/{row}",
    }
    changes["patient_id"] = record.patient_id or (record.image_path[0] if record.image_path else changes["id"])
    return record.model_copy(update=changes)


def _missing_files(record: InstructionRecord) -> str | None:
    masks = record.mask_path if isinstance(record.mask_path, list) else [record.mask_path or ""]
    for field, names in (("image_path", record.image_path), ("mask_path", masks)):
        for name in names:
            if name and not Path(name).exists():
                return f"field {field}: no such file: {name}"
    return None
