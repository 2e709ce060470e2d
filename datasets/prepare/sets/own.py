"""A person's own data: a CSV with a row for each volume, or for each question about one.

Columns, of which `image` alone is needed; all files are named relative to the table:

    image     volume (or slice): NIfTI, NRRD, MHA, the folder of a DICOM series, .npy, .npz, PNG
    report    its report
    labels    what is present, as `nodule;effusion`; `none` says that nothing is, an empty field that nobody looked
    mask      `liver=liver.nii.gz;spleen=spleen.nii.gz`; `liver=organs.nii.gz#5` for value 5 of a multi-label file,
              `kidney=organs.nii.gz#2,3` for several; without a name the structure of --set mask_label=NAME, or the
              row's only label
    question, answer, choices
              choices as `one;two;three`, or by letter as `A=one;B=two`; the answer is then one of them, or its letter
    patient   whose volume it is; without it each volume counts as a patient
    split     train, val or test; without it patients are split by the seed

Rows about one image add up.  A label that is not listed is absent: the labels are those of --set label_set=CT-RATE
(or RadChestCT, or `one;two;three`), without it all that the table names.

A label that pretraining has no description of needs one in data/label_descriptions.

The manifests are own_image_text, own_classification and own_segmentation for pretraining, and own_Caption,
own_Diagnosis (for labels of a known label set), own_Question_Answer and own_Seg for tuning.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.own_rows import NOTHING, OwnCase, add_row
from datasets.prepare.tables import Row, Table, nearest, read_table
from datasets.vocabulary import diagnosis_facts, diseases_of

COLUMNS = ("image", "report", "labels", "mask", "question", "answer", "choices", "patient", "split")
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an image, in the order of the table.  source: the table, or a folder with one."""
    path = _table_path(source, settings.get("table", ""))
    header = _header(path)
    for name in header if len(header) > 1 else ():
        if name not in COLUMNS:
            hint = nearest(name, COLUMNS) or f"; known are {', '.join(COLUMNS)}"
            findings.problems.append(f"{path}: column {name!r} is not known{hint}")
    table = read_table(path, ("image",), findings, others=lambda name: name in COLUMNS)
    if table is None:
        return []
    if "patient" not in header:
        findings.warnings.append(f"{path}: has no column patient; each image counts as a patient of its own")
    label_set = _label_set(settings.get("label_set", ""), table)
    _refuse_repeated_rows(table, findings)
    cases: dict[str, OwnCase] = {}
    splits: dict[str, tuple[Split, int]] = {}
    for row in table.rows:
        if not row["image"]:
            findings.problems.append(f"{path}: row {row.number}, column image: is empty")
            continue
        case = cases.setdefault(row["image"], OwnCase(row["image"]))
        try:
            add_row(case, row, path.parent, settings.get("mask_label", ""), label_set)
            _note_split(row, case.patient or case.image, splits)
        except ValueError as error:
            findings.problems.append(f"{path}: row {row.number}, column {error}")
    findings.facts["labels"] = label_set
    return [_case(case, path.parent, label_set, splits) for case in cases.values()]


def _case(case: OwnCase, folder: Path, label_set: list[str], splits: Mapping[str, tuple[Split, int]]) -> Case:
    patient = case.patient or case.image
    split, _ = splits.get(patient) or splits.get(case.image) or (None, 0)  # a later row may have named the patient
    classes = None if case.labels is None else {label: int(label in case.labels) for label in label_set}
    return Case(
        case.image,
        patient,
        folder / case.image,
        split,
        classes=classes,
        report=case.report,
        masks=dict(case.masks),
        questions=tuple(case.questions),
    )


def _table_path(source: Path, name: str) -> Path:
    if source.is_file():
        return source
    if name:
        return source / name
    found = sorted(path for path in source.glob("*.csv") if not path.name.startswith("."))
    if len(found) != 1:
        raise InputError(f"{source}: holds {len(found)} CSV files; name the one to read by --set table=NAME.csv")
    return found[0]


def _header(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a table by --set table=NAME.csv") from error


def _label_set(given: str, table: Table) -> list[str]:
    """The labels that a volume may have: of a known label set, as listed, or all that the table names."""
    if given in diagnosis_facts():
        return diseases_of(given)
    if given:
        return [label.strip() for label in given.split(";") if label.strip()]
    named = (part.strip() for row in table.rows for part in row.fields.get("labels", "").split(";"))
    return sorted({label for label in named if label and label.casefold() != NOTHING})


def _refuse_repeated_rows(table: Table, findings: Findings) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for row in table.rows:
        fields = tuple(row.fields.values())
        if fields in seen:
            findings.problems.append(f"{table.path}: row {row.number}: is row {seen[fields]} once more; remove one")
        seen.setdefault(fields, row.number)


def _note_split(row: Row, patient: str, splits: dict[str, tuple[Split, int]]) -> None:
    """Keep the split of a row for its patient; ValueError for an unknown one, or where an earlier row has another."""
    given = row.fields.get("split", "")
    if not given:
        return
    split = _SPLITS.get(given.lower())
    if split is None:
        raise ValueError(f"split: {given!r} is not train, val or test")
    before, number = splits.setdefault(patient, (split, row.number))
    if before != split:
        raise ValueError(f"split: patient {patient} is in {split} here, and in {before} in row {number}")


DATA_SETS = (
    DataSet(
        name="own",
        title="Own data, by a CSV",
        read=read,
        marks=(),
        pretraining=("own_image_text", "own_classification", "own_segmentation"),
        instruction=("own_Caption", "own_Diagnosis", "own_Question_Answer", "own_Seg"),
        settings={
            "table": Setting("", "the CSV in the source, where there are several"),
            "label_set": Setting("", "CT-RATE, RadChestCT, or labels parted by ; (default: all that the table names)"),
            "mask_label": Setting("", "the structure of masks that are given without a name"),
        },
    ),
)
