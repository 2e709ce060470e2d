"""Random cases of a prepared data set, with all that its manifests say of them."""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datasets.errors import InputError
from datasets.manifest import InstructionRecord
from datasets.manifest_rows import complaints
from datasets.mask_files import MaskSource, mask_file
from datasets.pretraining_manifest import ClassificationRecord, PretrainingRecord, SegmentationRecord, read_record
from datasets.vocabulary import Kind

PREPARED = "prepared.json"
IMAGE_FIELDS = ("image_path", "renorm_image")
KIND_OF_FIELD: dict[str, Kind] = {
    "report": "image_text", "disease_label": "classification", "labels": "segmentation", "mask_path": "segmentation",
    "renorm_segmentation_dir": "segmentation",
}  # fmt: skip


@dataclass
class AuditCase:
    """One volume (or 2D image) and what is said of it.

    crop: the file is a normalised crop (`datasets.volume.preprocessed_crops`).  hu_offset: added to get HU.
    masks: by label.  texts: (heading, text) of its classes, report and questions.  manifests: where it stands.
    """

    image: Path
    crop: bool = False
    hu_offset: float = 0.0
    masks: dict[str, MaskSource] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)
    manifests: list[str] = field(default_factory=list)


Row = tuple[Path, int, dict[str, Any]]  # manifest, number, and the row itself


def prepared_sets(out: Path) -> list[str]:
    """The data sets that manifests were made of in a folder, by name; InputError where there is none."""
    names = [path.parent.name for path in sorted(out.glob(f"*/{PREPARED}")) if _read_json(path).get("manifests")]
    if not names:
        raise InputError(f"{out}: nothing was prepared there; run python -m datasets.prepare")
    return names


def prepared_manifests(out: Path, data_set: str) -> list[Path]:
    """The manifests that a data set wrote, as its prepared.json lists them.

    Raises InputError where the set was not prepared in `out`, or a manifest is gone.
    """
    path = out / data_set / PREPARED
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepared there: {', '.join(prepared_sets(out))}")
    listed = _read_json(path).get("manifests", ())
    manifests = [out / name for name in listed]
    if not manifests:
        raise InputError(f"{path}: lists no manifests; its tasks were made of other data sets, or prepare it again")
    if missing := [file for file in manifests if not file.is_file()]:
        raise InputError(f"{missing[0]}: no such file, but {path} lists it; prepare the data set again")
    return manifests


def random_cases(manifests: Sequence[Path], count: int, seed: int = 0) -> list[AuditCase]:
    """`count` volumes drawn at random from all that the manifests name (all where there are fewer), in their order.

    Only the rows of these are validated.  Raises InputError for a manifest that is not JSON, or a bad row.
    """
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for path in manifests:
        for number, row in enumerate(_read_json(path)):
            for image in _images(row):
                rows[os.path.normpath(path.parent / image)].append((path, number, row))
    if not rows:
        raise InputError(f"{', '.join(map(str, manifests))}: no volumes in these manifests")
    names = list(rows)
    chosen = sorted(random.Random(seed).sample(range(len(names)), min(count, len(names))))
    return [_case(Path(names[index]), rows[names[index]]) for index in chosen]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _images(row: Any) -> list[str]:
    if not isinstance(row, dict):
        return []
    found: str | list[str] = next((row[name] for name in IMAGE_FIELDS if row.get(name)), [])
    return [found] if isinstance(found, str) else list(found)


def _case(image: Path, rows: Sequence[Row]) -> AuditCase:
    case = AuditCase(image)
    for path, number, row in rows:
        name = path.stem
        if name not in case.manifests:
            case.manifests.append(name)
        try:
            if "question" in row:
                _add_question(case, InstructionRecord.model_validate(row), path.parent)
            else:
                _add_record(case, path, row)
        except ValidationError as error:
            what = complaints(error, list(InstructionRecord.model_fields))[0]
            raise InputError(f"{path}: row {number}, {what}") from error
        except ValueError as error:
            raise InputError(f"{path}: row {number}, {error}") from error
    return case


def _add_record(case: AuditCase, path: Path, row: Mapping[str, Any]) -> None:
    """What a pretraining record says."""
    kind = next((kind for name, kind in KIND_OF_FIELD.items() if name in row), None)
    if kind is None:
        raise ValueError("is a record neither of pretraining nor of instruction tuning")
    record, faults = read_record(row, kind, path.parent.resolve(), labels=None, check_files=False)
    if record is None:
        raise ValueError(faults[0])
    case.crop = record.preprocessed
    case.hu_offset = record.hu_offset
    if isinstance(record, ClassificationRecord):
        case.texts.append((path.stem, _classes(record.disease_label)))
    elif isinstance(record, SegmentationRecord):
        case.masks = {**_sources(record), **case.masks}
    else:
        case.texts.append((path.stem, _report(record)))


def _report(record: PretrainingRecord) -> str:
    return str(getattr(record, "report", ""))


def _classes(given: str | Mapping[str, int | None] | Sequence[str]) -> str:
    """Which classes are present, and how many are absent or unknown."""
    if isinstance(given, str):
        return given
    values = given if isinstance(given, Mapping) else dict.fromkeys(given, 1)
    present = ", ".join(name for name, value in values.items() if value == 1) or "none"
    counts = {
        name: sum(value == number for value in values.values()) for name, number in (("absent", 0), ("unknown", None))
    }
    others = "; ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"present: {present}" + (f"; {others}" if others else "")


def _sources(record: SegmentationRecord) -> dict[str, MaskSource]:
    """Where the mask of each label is."""
    sources = {}
    values = record.values or [None] * len(record.labels)
    for index, label in enumerate(record.labels):
        if record.mask_folder is not None:
            boxes = [record.boxes[index]] if record.boxes is not None else None
            sources[label] = MaskSource([mask_file(record.mask_folder, label)], boxes=boxes)
        else:
            entry = record.mask_path if isinstance(record.mask_path, str) else (record.mask_path or [])[index]
            sources[label] = MaskSource([entry] if isinstance(entry, str) else list(entry), values[index])
    return sources


def _add_question(case: AuditCase, record: InstructionRecord, folder: Path) -> None:
    """What an instruction record says."""
    case.hu_offset = record.hu_offset
    case.texts.append((record.text, _classes(record.targets) if record.targets else record.answer))
    number_of_image = [os.path.normpath(folder / name) for name in record.image_path].index(str(case.image))
    if number_of_image != record.mask_image:
        return
    for number, label in enumerate(record.labels):
        source = record.mask_source(number)
        located = [str(folder / path) for path in source.paths]
        case.masks.setdefault(label, source._replace(paths=located))
