"""Volumes named as CT-RATE names them, `train_1_a_1.nii.gz`, and its tables about them; RadGenome has the same ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.prepare.case import Findings, Split
from datasets.prepare.published_shares import note_shares
from datasets.prepare.tables import Row, read_lines, read_table
from datasets.prepare.trees import by_name, files_under

LABEL_FOLDER = "multi_abnormality_labels"
_NAME = re.compile(r"(train|valid)_(\d+)_([a-z]+)_(\d+)\.nii\.gz")  # patient, scan, reconstruction
_SPLITS: dict[str, Split] = {"train": "train", "valid": "test"}
_LABELS = {"train": "train_predicted_labels.csv", "valid": "valid_predicted_labels.csv"}


@dataclass(frozen=True)
class ChestVolume:
    """One reconstruction of a scan.  part: "train" or "valid", as the data set calls them."""

    path: Path
    part: str
    patient: str

    @property
    def id(self) -> str:
        """The file's name without its ending."""
        return self.path.name.removesuffix(".nii.gz")

    @property
    def split(self) -> Split:
        """The official validation set is what the benchmarks test on."""
        return _SPLITS[self.part]


def volume_of(path: Path) -> ChestVolume | None:
    """A volume by its name; None for a name of any other form."""
    match = _NAME.fullmatch(path.name)
    return ChestVolume(path, match[1], f"{match[1]}_{match[2]}") if match else None


def find_volumes(
    dataset: Path, folders: Mapping[str, str], findings: Findings
) -> tuple[dict[str, ChestVolume], list[str]]:
    """The volumes in the folder of each part, by file name, and the names that are of another form or part."""
    found: dict[str, ChestVolume] = {}
    odd: list[str] = []
    for part, folder in folders.items():
        for name, path in by_name(files_under(dataset / folder, ".nii.gz"), findings).items():
            volume = volume_of(path)
            if volume is None or volume.part != part:
                odd.append(name)
            else:
                found[name] = volume
    return found, odd


def read_volume_tables(
    folder: Path, names: Mapping[str, str], parts: Sequence[str], columns: Sequence[str], findings: Findings
) -> dict[str, Row]:
    """Rows by file name, from the tables of the parts of which there are volumes."""
    found: dict[str, Row] = {}
    for part in parts:
        table = read_table(folder / names[part], ("VolumeName", *columns), findings, "VolumeName")
        if table is not None:
            found.update(table.by("VolumeName"))
    return found


def read_labels(
    dataset: Path, parts: Sequence[str], labels: Sequence[str], findings: Findings
) -> dict[str, dict[str, int | None]]:
    """{label: 1 or 0} by file name, from `multi_abnormality_labels`; `labels` are spelled as its columns."""
    found: dict[str, dict[str, int | None]] = {}
    for part in parts:
        path = dataset / LABEL_FOLDER / _LABELS[part]
        table = read_table(path, ("VolumeName", *labels), findings, "VolumeName", others=lambda name: True)
        if table is None:
            continue
        for extra in [column for column in table.columns if column not in ("VolumeName", *labels)]:
            findings.problems.append(f"{path}: column {extra!r} is not one of the {len(labels)} labels; remove it")
        rows = {row["VolumeName"]: {label: table.truth(row, label, findings) for label in labels} for row in table.rows}
        found.update(rows)
        if part == "train":
            note_shares("CT-RATE", list(rows.values()), findings)
    return found


def excluded_volumes(dataset: Path, parts: Sequence[str], findings: Findings) -> set[str]:
    """File names of volumes that show no chest, by the lists of the data set; a warning where a list is missing."""
    excluded: set[str] = set()
    for part in parts:
        path = dataset / "metadata" / f"no_chest_{part}.txt"
        if not path.is_file():
            findings.warnings.append(f"{path}: is missing; volumes that show no chest are kept")
            continue
        for line in read_lines(path, findings):
            name = line.rsplit("/", 1)[-1]
            excluded.add(name if name.endswith(".nii.gz") else f"{name}.nii.gz")
    return excluded
