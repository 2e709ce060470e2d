"""Manifests of vision pretraining: a JSON list of records of one kind, see `datasets.pretraining_records`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datasets.manifest_rows import Fault, ManifestError, complaints, refuse_rows, rows_of
from datasets.many_objects import no_search_for_cycles
from datasets.pretraining_records import (
    SCHEMAS,
    ClassificationRecord,
    ImageTextRecord,
    PretrainingRecord,
    SegmentationRecord,
)
from datasets.published_pretraining import folder_of_paths, known_names
from datasets.vocabulary import Kind
from datasets.volume.dicom_series import volume_exists

__all__ = [
    "ClassificationRecord",
    "ImageTextRecord",
    "PretrainingRecord",
    "SegmentationRecord",
    "load_pretraining_manifest",
    "read_pretraining_manifest",
    "read_record",
]


def load_pretraining_manifest(
    path: str | Path,
    kind: Kind,
    labels: Sequence[str] = (),
    loss: str | None = None,
    *,
    split: str | None = None,
    drop_other_labels: bool = False,
    check_files: bool = True,
    leave_out: Collection[int] = (),
) -> list[PretrainingRecord]:
    """Read and validate the manifest of one task; paths come back absolute.

    Args:
        labels, loss: of the task; a label is found whatever its case, and comes back in the task's spelling.
        split: "train", "val" or "test", where the file has several.
        drop_other_labels: leave structures that the task does not name out, and records without any other.
        check_files: also see that every image and mask exists.
        leave_out: rows that are passed over, good or bad.

    Raises:
        ManifestError: names file, row and field, and how many more rows are wrong.
    """
    where, records, faults = read_pretraining_manifest(
        path,
        kind,
        labels,
        loss,
        split=split,
        drop_other_labels=drop_other_labels,
        check_files=check_files,
        leave_out=leave_out,
    )
    refuse_rows(where, faults)
    if not records:
        raise ManifestError(f"{where}: no records")
    return list(records.values())


@no_search_for_cycles()
def read_pretraining_manifest(
    path: str | Path,
    kind: Kind,
    labels: Sequence[str] | None = (),
    loss: str | None = None,
    *,
    split: str | None = None,
    drop_other_labels: bool = False,
    check_files: bool = True,
    leave_out: Collection[int] = (),
) -> tuple[str, dict[int, PretrainingRecord], list[Fault]]:
    """What messages call the manifest, its records by row, and what is wrong with the other rows; arguments as above.

    labels: None where no task is known.  Raises ManifestError for a file that holds no list.
    """
    path = Path(path)
    given = rows_of(path, split)
    folder = folder_of_paths(path, [values for _, values in given.numbered])
    records: dict[int, PretrainingRecord] = {}
    faults: list[Fault] = []
    for row, values in given.numbered:
        if row in leave_out:
            continue
        record, wrong = read_record(values, kind, folder, labels, loss, drop_other_labels, check_files)
        faults += [(row, complaint) for complaint in wrong]
        if record is not None:
            records[row] = record
    return given.where, records, faults


def read_record(
    values: Any,
    kind: Kind,
    folder: Path,
    labels: Sequence[str] | None = (),
    loss: str | None = None,
    drop_other_labels: bool = False,
    check_files: bool = True,
) -> tuple[PretrainingRecord | None, list[str]]:
    """A record with absolute paths, and what is wrong with it (``field a: what``); arguments as above.

    labels: None where no task is known; the record then keeps its own.  The record is None where something is wrong, or
    where none of its structures is of the task.
    """
    schema = SCHEMAS[kind]
    try:
        given: PretrainingRecord | None = schema.model_validate(values)
        if drop_other_labels and isinstance(given, SegmentationRecord):
            given = given.only(labels or ())
        if given is None:
            return None, []
        record = (given if labels is None else given.in_task(labels, loss)).located(folder)
    except ValidationError as error:
        return None, complaints(error, [*schema.model_fields, *known_names(kind)])
    except ValueError as error:
        return None, [f"field {error}"]
    missing = [item for item in record.files() if not volume_exists(Path(item[1]))] if check_files else []
    return None if missing else record, [f"field {field}: no such file: {name}" for field, name in missing]
