"""The instruction manifest: a JSON list of questions about volumes, with answers, and masks or labels where asked for.

The published format is ``{question: [{type: image}, {type: text, text}], image_path, answer}``; all else is optional.
Its fields for masks and targets (see `datasets.published_instructions`) are read as well as ours, which
`InstructionRecord` explains.  Paths are relative to the manifest's folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from datasets.instruction_record import InstructionRecord, MaskFiles, QuestionPart, may_be_report
from datasets.manifest_rows import Fault, ManifestError, complaints, read_rows, refuse_rows
from datasets.many_objects import no_search_for_cycles
from datasets.published_instructions import PUBLISHED_FIELDS, from_published, is_published
from datasets.volume.dicom_series import volume_exists

log = logging.getLogger(__name__)
__all__ = [
    "InstructionRecord",
    "ManifestError",
    "MaskFiles",
    "QuestionPart",
    "load_manifest",
    "manifest_texts",
    "read_manifest",
]


def load_manifest(
    path: str | Path, check_files: bool = True, leave_out: Collection[int] = ()
) -> list[InstructionRecord]:
    """Read and validate a manifest; the records come back with absolute paths and with ids (``stem/row`` where absent).

    Args:
        path: the JSON file.
        check_files: also see that every image and mask exists.
        leave_out: rows that are passed over, good or bad.

    Raises:
        ManifestError: not a JSON list of records; names file, row and field, and how many more rows are wrong.
    """
    records, faults = read_manifest(path, check_files, leave_out)
    refuse_rows(path, faults)
    if not records:
        raise ManifestError(f"{path}: the list is empty")
    return list(records.values())


@no_search_for_cycles()
def read_manifest(
    path: str | Path, check_files: bool = True, leave_out: Collection[int] = ()
) -> tuple[dict[int, InstructionRecord], list[Fault]]:
    """The records by row, and what is wrong with the other rows; arguments as above.

    Raises ManifestError for a file that holds no list.
    """
    path = Path(path)
    folder = path.parent.resolve()
    # a volume has many records, and a path takes longer to make and to look for than a record to check
    absolute = cache(lambda name: str(folder / name))
    exists = cache(lambda name: volume_exists(Path(name)))
    known = [*InstructionRecord.model_fields, *PUBLISHED_FIELDS]
    records: dict[int, InstructionRecord] = {}
    faults: list[Fault] = []
    rows: dict[str, int] = {}  # by id
    untold: list[int] = []
    for row, values in enumerate(read_rows(path)):
        if row in leave_out:
            continue
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
        record = _with_absolute_paths(record, absolute, f"{path.stem}/{row}")
        wrong = _missing_files(record, exists) if check_files else []
        if record.id in rows:
            wrong.append(f"id: {record.id!r} was already given by row {rows[record.id]}")
        rows.setdefault(record.id, row)
        untold += [row] if "task" not in values and may_be_report(record) else []
        faults += [(row, complaint) for complaint in wrong]
        if not wrong:
            records[row] = record
    if untold and not faults:
        log.warning(
            "%s: %d of the records without a task (the first is row %d) have answers as long as a report, and are "
            "taken as open_vqa; give them the task report_generation if they are reports",
            path, len(untold), untold[0],
        )  # fmt: skip
    return records, faults


def manifest_texts(records: Iterable[InstructionRecord]) -> list[str]:
    """Every question and answer, to learn a tokenizer from."""
    return [text for record in records for text in (record.text, record.answer)]


def _with_absolute_paths(
    record: InstructionRecord, absolute: Callable[[str], str], name_of_row: str
) -> InstructionRecord:
    def located(masks: MaskFiles | None) -> MaskFiles | None:
        if isinstance(masks, list):
            return [absolute(entry) if isinstance(entry, str) else list(map(absolute, entry)) for entry in masks]
        return absolute(masks) if masks else masks

    changes = {
        "image_path": [absolute(name) for name in record.image_path],
        "mask_path": located(record.mask_path),
        "id": record.id or name_of_row,
    }
    changes["patient_id"] = record.patient_id or (record.image_path[0] if record.image_path else changes["id"])
    return record.model_copy(update=changes)


def _missing_files(record: InstructionRecord, exists: Callable[[str], bool]) -> list[str]:
    """A complaint for each file of a record with absolute paths that is not there."""
    masks: list[str] = []
    if isinstance(record.mask_path, str):
        masks = [record.mask_path]
    elif record.mask_path is not None:
        masks = [path for number in range(len(record.mask_path)) for path in record.mask_source(number).needed]
    found = [("image_path", name) for name in record.image_path] + [("mask_path", name) for name in masks]
    return [f"field {field}: no such file: {name}" for field, name in found if name and not exists(name)]
