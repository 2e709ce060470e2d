"""INSPECT: CT angiograms of the pulmonary arteries with the impression of their report.

The names of its tables of metadata and of splits are told by their columns: any CSV beside `Final_Impressions.csv` with
`impression_id` and `image_id`, or with `impression_id` and `split`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.tables import Row, examples, read_table
from datasets.prepare.trees import by_name, files_under, inside

_IMPRESSIONS = "Final_Impressions.csv"
_KEY = "impression_id"
_PATIENTS = ("person_id", "patient_id")
_SPLITS: dict[str, Split] = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an impression whose volume is here; an empty impression is left out."""
    folder = inside(source, "inspect2")
    volumes = by_name(files_under(inside(folder, "CTPA"), (".nii.gz", ".nii")), findings)
    if not volumes:
        findings.problems.append(f"{folder / 'CTPA'}: no volume is here; give the folder that holds inspect2/CTPA")
    tables = {path.name: path for path in [*files_under(source, ".csv")]}
    path = tables.pop(_IMPRESSIONS, source / _IMPRESSIONS)
    table = read_table(path, (_KEY, "impressions"), findings, _KEY)
    metadata = _table_with(list(tables.values()), (_KEY, "image_id"), findings)
    splits = _table_with(list(tables.values()), (_KEY, "split"), findings)
    place = next((file for file in tables.values() if {_KEY, "split"} <= set(_header(file))), source)
    if not splits:
        findings.warnings.append(f"{source}: no table with {_KEY} and split is here; patients are split by the seed")
    if not any(row.fields.get(column) for row in [*metadata.values(), *splits.values()] for column in _PATIENTS):
        findings.warnings.append(f"{source}: no table has a column person_id; each impression counts as a patient")
    cases = []
    absent = []
    for row in () if table is None else table.rows:
        name = row[_KEY]
        volume = _volume(name, metadata.get(name), volumes)
        if volume is None:
            absent.append(name)
        elif not row["impressions"]:
            findings.excluded[name] = "its impression is empty"
        else:
            split = _split(place, splits.get(name), findings)
            patient = next((rows[name][column] for rows in (metadata, splits) for column in _PATIENTS
                            if name in rows and rows[name].fields.get(column)), name)  # fmt: skip
            cases.append(Case(name, patient, volume, split, report=row["impressions"]))
    if table is not None:
        _note_counts(path, absent, cases, volumes, findings)
    return cases


def _volume(name: str, row: Row | None, volumes: Mapping[str, Path]) -> Path | None:
    """The file that is called as the impression, or as the image that the metadata name for it."""
    image = row["image_id"] if row is not None else ""
    for stem in (name, image):
        for file in (stem, f"{stem}.nii.gz", f"{stem}.nii"):
            if stem and file in volumes:
                return volumes[file]
    return None


def _table_with(paths: Sequence[Path], columns: Sequence[str], findings: Findings) -> dict[str, Row]:
    """The rows of the first table that has the columns, by impression."""
    for path in paths:
        if set(columns) <= set(_header(path)):
            table = read_table(path, columns, findings, _KEY, lambda name: name in _PATIENTS)
            return {} if table is None else table.by(_KEY)
    return {}


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def _split(path: Path, row: Row | None, findings: Findings) -> Split | None:
    if row is None:
        return None
    split = _SPLITS.get(row["split"].lower())
    if split is None:
        findings.problems.append(
            f"{path}: row {row.number}, column split: {row['split']!r} is not one of {', '.join(_SPLITS)}"
        )
    return split


def _note_counts(
    path: Path, absent: Sequence[str], cases: Sequence[Case], volumes: Mapping[str, Path], findings: Findings
) -> None:
    if absent:
        findings.warnings.append(f"{path}: the volumes of {examples(absent)} impressions are not here and left out")
    used = {case.image.name for case in cases}
    left = [name for name in volumes if name not in used and name.partition(".")[0] not in findings.excluded]
    if left:
        findings.warnings.append(f"{examples(left)} volumes have no impression; they are left out")
    if volumes and not cases:
        findings.problems.append(f"{path}: none of its impressions has a volume here; give the folder with CTPA")


DATA_SETS = (
    DataSet(
        name="inspect",
        title="INSPECT",
        read=read,
        marks=("inspect2/CTPA",),
        pretraining=("INSPECT_image_text",),
        size="23,248 volumes of 19,402 patients",
        licence="Stanford research use agreement, access on request",
        address="https://som-shahlab.github.io/inspect-website/",
    ),
)
