"""Instruction manifests from classification, segmentation, report and question-answer records.

    python -m datasets.prepare.instructions classification records.json train.json --label_set CT-RATE --seed 0
    python -m datasets.prepare.instructions diagnosis test.json CT-RATE-diagnosis.json --label_set CT-RATE

Records are the pretraining manifests' ({image_path, disease_label}, {image_path, labels, mask_path, mask_values},
{image_path, report}) and, for vqa, {image_path, question, answer, choices?}.  `diagnosis` and `open_vqa` make the
manifests of benchmarks that ask for one thing only: of classes just the request for all confidences, without the yes/no
questions that `classification` adds, and of questions with choices open ones.  Wording comes from data/templates; the
same seed gives the same file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest import load_manifest
from datasets.manifest_rows import ManifestError, complaints, read_rows, unknown_field
from datasets.mask_files import MaskValue
from datasets.prepare.instruction_builder import Absent, InstructionBuilder, Record
from datasets.pretraining_records import SegmentationRecord
from datasets.vocabulary import diagnosis_facts
from datasets.volume.mask_rules import label_values
from datasets.whole_files import write_rows, written_whole

_FIELDS = {  # of a row, by kind
    "classification": ("disease_label",),
    "diagnosis": ("disease_label",),
    "segmentation": ("labels", "mask_path", "mask_values"),
    "report": ("report",),
    "vqa": ("question", "answer", "choices"),
    "open_vqa": ("question", "answer", "choices"),
}
_OF_ALL = ("image_path", "patient_id", "hu_offset")
KINDS = tuple(_FIELDS)


def build(kind: str, source: Path, target: Path, builder: InstructionBuilder) -> int:
    """Write ``target`` from ``source``, validated and whole or not at all; gives the number of questions.

    Raises:
        InputError: a row lacks a field or has a wrong one; the message names file, row and field.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"{target}: is the source itself; give the manifest another name")
    rows = read_rows(source)
    make: Callable[..., Iterator[Record]] = getattr(builder, kind)
    records: list[Record] = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ManifestError(f"{source}: row {number}, must be a record, not {type(row).__name__}")
        known = (*_OF_ALL, *_FIELDS[kind])
        if unknown := [name for name in row if name not in known]:
            raise ManifestError(f"{source}: row {number}, field {unknown[0]}: {unknown_field(unknown[0], known)}")
        try:
            found = present_labels(row, source.parent) if kind == "segmentation" and builder.absent != "ask" else None
            for record in make(row) if found is None else make(row, found):
                record["id"] = f"{source.stem}_{number}_{record['task']}_{len(records)}"
                records.append(_moved(record, source.parent, target.parent))
        except InputError as error:
            raise ManifestError(f"{source}: row {number}, {error}") from error
        except KeyError as error:
            raise ManifestError(f"{source}: row {number}, field {error.args[0]}: is missing") from error
        except (ValueError, AttributeError, TypeError) as error:
            raise ManifestError(f"{source}: row {number}, {error}") from error
    if not records:
        raise InputError(f"{source}: nothing is to be asked about its {len(rows)} records")
    with written_whole([target]) as (part,):
        write_rows(part, records)
        try:
            return len(load_manifest(part))
        except ManifestError as error:
            raise ManifestError(str(error).replace(str(part), str(target))) from error


def present_labels(row: Record, folder: Path) -> set[str]:
    """The labels of a segmentation record that have a voxel; InputError for one that cannot be read."""
    try:
        record = SegmentationRecord.model_validate(row).located(folder)
    except ValidationError as error:
        raise ManifestError("; ".join(complaints(error, SegmentationRecord.model_fields))) from error
    held: dict[str, set[int]] = {}
    present = set()
    values: Sequence[MaskValue] = record.values or [None] * len(record.labels)
    files = record.mask_files * len(record.labels) if isinstance(record.mask_path, str) else record.mask_files
    for label, value, paths in zip(record.labels, values, files, strict=True):
        for path in paths:
            if path not in held:
                held[path] = label_values(path)
            if held[path] - {0} if value is None else held[path] & set(np.atleast_1d(value).tolist()):
                present.add(label)
    return present


def _moved(record: Record, source: Path, target: Path) -> Record:
    """Paths of a record relative to the manifest that it is written to."""

    def moved(value: Any) -> Any:
        return list(map(moved, value)) if isinstance(value, list) else os.path.relpath(source / value, target)

    return {key: moved(value) if key in ("image_path", "mask_path") else value for key, value in record.items()}


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare.instructions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("source", type=Path, help="records")
    parser.add_argument("target", type=Path, help="instruction manifest to write")
    parser.add_argument("--label_set", choices=tuple(diagnosis_facts()), help="makes diagnosis requests of classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=4, help="most questions of a kind about one volume")
    parser.add_argument("--structures", type=int, default=3, help="most structures in one question")
    parser.add_argument(
        "--absent",
        choices=get_args(Absent),
        default="leave_out",
        help="structures without a voxel: leave_out (default) and say read the masks; ask takes all for present",
    )
    parser.add_argument("--keep_choices", action="store_true", help="closed questions in their own order, as M3D asks")
    options = parser.parse_args(arguments)
    builder = InstructionBuilder(
        options.seed, options.label_set, options.questions, options.structures, options.absent, options.keep_choices
    )
    count = build(options.kind, options.source, options.target, builder)
    print(f"wrote {count} questions to {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
