"""Instruction manifests of the published form into ours and back."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets.manifest import InstructionRecord, load_manifest
from datasets.manifest_rows import Fault, read_rows, refuse_rows
from datasets.prepare.boxed_files import is_boxed, stored_geometry, write_boxed
from datasets.prepare.moved_paths import with_moved_paths
from datasets.published_instructions import from_published, is_published, to_published
from datasets.whole_files import write_rows, written_whole

PATHS = ("image_path", "mask_path")
Record = dict[str, Any]


def convert_instructions(source: Path, target: Path, to: str, check_files: bool = True) -> int:
    """Write the instruction manifest `target` in the form `to` ("ours", "published"); gives the number of records.

    To the published form, masks that are not in boxes are written to the folder <target>_masks.  Raises ManifestError
    for a bad record, or one that the form cannot express.
    """
    folder, aim = source.parent, target.parent
    records = load_manifest(source, check_files)
    rows: list[Record] = read_rows(source)
    if to == "ours":
        written = [from_published(row, folder.resolve()) if is_published(row) else row for row in rows]
        with written_whole([target]) as (part,):
            write_rows(part, [with_moved_paths(row, PATHS, folder, aim) for row in written])
        return len(rows)
    _refuse_inexpressible(source, rows, records)
    masks = target.with_name(f"{target.stem}_masks")
    plain = [record for row, record in zip(rows, records, strict=True) if not is_published(row)]
    targets = [target] if all(map(is_boxed, plain)) else [masks, target]
    geometry_of = lru_cache(maxsize=1)(stored_geometry)  # several questions about one volume follow each other
    with written_whole(targets) as parts:
        written = []
        for number, (row, record) in enumerate(zip(rows, records, strict=True)):
            moved = with_moved_paths(row, PATHS, folder, aim)
            if is_published(row):
                written.append(moved)
            elif is_boxed(record):
                written.append(to_published(moved))
            else:
                geometry = geometry_of(record.image_path[record.mask_image])
                boxes = write_boxed(record, parts[0] / str(number), geometry)
                written.append(to_published(_boxed(moved, record, f"{masks.name}/{number}", boxes)))
        write_rows(parts[-1], written)
    return len(rows)


def _refuse_inexpressible(source: Path, rows: list[Record], records: list[InstructionRecord]) -> None:
    """ManifestError with all records that the published form has no words for, before any mask is read."""
    faults: list[Fault] = []
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        try:
            if not is_published(row):
                absent = [[False] * len(names) for names in record.structures]
                to_published(row if is_boxed(record) else _boxed(row, record, "masks", absent))
        except ValueError as error:
            faults.append((number, f"field {error}"))
    refuse_rows(source, faults)


def _boxed(row: Record, record: InstructionRecord, folder: str, boxes: list[list[Any]]) -> Record:
    """The record with its masks as <folder>/<structure>.npy in boxes."""
    return {
        **{name: value for name, value in row.items() if name not in ("mask_values", "unions")},
        "labels": record.structures,
        "mask_path": [[f"{folder}/{name}.npy" for name in names] for names in record.structures],
        "mask_boxes": boxes,
    }
