"""RadImageNet: the slices of its CT of abdomen and lung, by the class that their folder names.

`radiology_ai/CT/<region>/<class>/<region>-<class><number>.png`.  Names of folders are known for one class alone; the
others are told by their words: `airspace_opacity` is "airspace opacity in the lung".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from datasets.catalog import PUBLISHED_TASKS
from datasets.errors import InputError
from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.tables import examples, nearest, read_table
from datasets.prepare.trees import files_under, folders_in, inside

TASK = "RadImageNet_disease_classification"
_REGIONS = {"lung": "lung", "abd": "abdomen", "abdomen": "abdomen"}
_FOLDERS = {"lung/normal": "normal in the lung"}
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a slice; folders that name no label of the task are left out, counted and named in a warning."""
    root = inside(source, "radiology_ai")
    named = _named(settings.get("folders", ""))
    labels = task_labels()
    splits = _splits(source, findings)
    cases: list[Case] = []
    unknown: Counter[str] = Counter()
    absent = set(splits)
    for region in folders_in(root / "CT"):
        if region.name not in _REGIONS:
            continue
        for folder in folders_in(region):
            label = label_of(region.name, folder.name, labels, named)
            for path in files_under(folder, (".png", ".jpg", ".jpeg")):
                name = "radiology_ai/" + path.relative_to(root).as_posix()
                absent.discard(name)
                if label is None:
                    unknown[f"{region.name}/{folder.name}"] += 1
                elif splits and name not in splits:
                    findings.excluded[name] = "is in none of the tables RadiologyAI_*.csv"
                else:
                    cases.append(Case(name, name, path, splits.get(name), classes=label))
    _note(root, labels, cases, unknown, absent, findings)
    return cases


def task_labels() -> tuple[str, ...]:
    """The 34 labels of the published task."""
    tasks = json.loads(PUBLISHED_TASKS.read_text(encoding="utf-8"))
    return tuple(next(task["labels"] for task in tasks if task["name"] == TASK))


def label_of(region: str, folder: str, labels: tuple[str, ...], named: Mapping[str, str]) -> str | None:
    """The label of a folder: as named by a setting, as known, or by the words of its name; None where there is none."""
    path = f"{region}/{folder}"
    if path in named:
        return named[path]
    by_words = {_words(label): label for label in labels}
    return _FOLDERS.get(path) or by_words.get(_words(f"{folder} in the {_REGIONS[region]}"))


def _words(text: str) -> str:
    return " ".join(re.split(r"[\W_]+", text.casefold())).strip()


def _named(given: str) -> dict[str, str]:
    """`abd/gall_stone=gallstone in the abdomen;...` as a table."""
    named: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in given.split(";"))):
        folder, _, label = item.partition("=")
        if label.strip() not in task_labels():
            raise InputError(
                f"--set folders: {label.strip()!r} is not a label of {TASK}{nearest(label.strip(), task_labels())}"
            )
        named[folder.strip()] = label.strip()
    return named


def _splits(source: Path, findings: Findings) -> dict[str, Split]:
    """By name the official split of the slices of CT; empty where there is no table."""
    tables = {path.name: path for path in files_under(source, ".csv")}
    found: dict[str, Split] = {}
    for part, split in _SPLITS.items():
        path = tables.get(f"RadiologyAI_{part}.csv")
        table = None if path is None else read_table(path, ("filename",), findings, "filename")
        for row in () if table is None else table.rows:
            name = row["filename"]
            if name.startswith(tuple(f"radiology_ai/CT/{region}/" for region in _REGIONS)):
                if name in found:
                    findings.problems.append(f"{path}: row {row.number}: {name} is in {found[name]} already; keep one")
                found[name] = split
    if not found:
        findings.warnings.append(f"{source}: RadiologyAI_*.csv are missing; the seed splits the slices")
    return found


def _note(
    root: Path,
    labels: tuple[str, ...],
    cases: list[Case],
    unknown: Mapping[str, int],
    absent: set[str],
    findings: Findings,
) -> None:
    if not cases:
        findings.problems.append(f"{root / 'CT'}: no slice of abd/ or lung/ is here; give the folder with radiology_ai")
    if unknown:
        folders = ", ".join(f"{name} ({count:,})" for name, count in sorted(unknown.items()))
        findings.warnings.append(
            f"{root / 'CT'}: {sum(unknown.values()):,} slices in folders that name no label of the task are left out: "
            f"{folders}; name them by --set folders=abd/FOLDER=LABEL"
        )
    if cases and (empty := [label for label in labels if label not in {case.classes for case in cases}]):
        findings.warnings.append(f"{root / 'CT'}: labels without a slice: {', '.join(empty)}")
    if absent:
        findings.warnings.append(f"{root}: {examples(absent)} slices of the tables are not here; they are left out")
    findings.warnings.append("the slices name no patient: without the official tables one may be in two splits")


DATA_SETS = (
    DataSet(
        name="radimagenet",
        title="RadImageNet (CT of abdomen and lung)",
        read=read,
        marks=("radiology_ai/CT",),
        pretraining=(TASK,),
        size="1.35 million slices of all modalities",
        licence="research, access on request",
        address="https://www.radimagenet.com",
        settings={
            "folders": Setting("", "labels of folders whose names do not tell: abd/FOLDER=LABEL, several parted by ;")
        },
    ),
)
