"""CC-CCII: chest CT as folders of PNG slices, of three classes; with the cleaned split of HKBU where it is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.sets.images_2d import IMAGES
from datasets.prepare.tables import examples, read_json
from datasets.prepare.trees import files_under, folders_in

CLASSES = {"NCP": "novel coronavirus pneumonia", "CP": "common pneumonia", "Normal": "normal"}
_LISTS: dict[str, Split] = {"ct_train.json": "train", "ct_test.json": "test"}
_FEWEST = 2  # slices of a volume


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a scan of `<class>/<patient>/<scan>/`, in the order of the names."""
    listed = _listed(source, findings)
    if not listed:
        findings.warnings.append(
            f"{source}: {' and '.join(_LISTS)} are missing; all scans are taken, split by the seed"
        )
    is_cleaned = bool(listed)
    cases = []
    more: list[str] = []
    scans = list(_scans(source))
    if not scans:
        findings.problems.append(f"{source}: holds no scan; give the folder with CP, NCP and Normal")
    for folder in scans:
        name = folder.relative_to(source).as_posix()
        kind, patient, _ = name.split("/")
        slices = _slices(folder)
        split, wanted = listed.pop(name, (None, None))
        if wanted is None and is_cleaned:
            findings.excluded[name] = "is not in the cleaned lists"
            continue
        if missing := sorted(set(wanted or ()) - slices):
            findings.problems.append(f"{folder}: {examples(missing)} slices of the list are missing; download it again")
        if len(slices) < _FEWEST:
            findings.excluded[name] = f"has fewer than {_FEWEST} slices"
            continue
        if wanted is not None and slices - wanted:
            more.append(name)
        cases.append(Case(name, f"{kind}/{patient}", folder, split, classes=CLASSES[kind]))
    if more:
        findings.warnings.append(
            f"{examples(more)} scans hold slices that the cleaned lists leave out; a folder is read whole, so take the "
            "cleaned images, or remove these slices"
        )
    if listed:
        findings.warnings.append(f"{source}: {examples(listed)} scans of the lists are not here and left out")
    findings.warnings.append("slices hold no spacing, and which way they run is not recorded")
    return cases


def _scans(source: Path) -> Iterator[Path]:
    for kind in CLASSES:
        for patient in folders_in(source / kind):
            yield from folders_in(patient)


def _slices(folder: Path) -> set[str]:
    """The names of the slices without their ending."""
    with os.scandir(folder) as entries:
        return {
            Path(entry.name).stem for entry in entries if entry.name.lower().endswith(IMAGES) and entry.name[0] != "."
        }


def _listed(source: Path, findings: Findings) -> dict[str, tuple[Split, set[str]]]:
    """By `class/patient/scan` the split and the slices of the cleaned lists."""
    found: dict[str, tuple[Split, set[str]]] = {}
    for path in files_under(source, tuple(_LISTS)):
        if path.name not in _LISTS:
            continue
        items = read_json(path, findings)
        unknown: Counter[str] = Counter()
        for name, slices in _leaves(items):
            kind = name.partition("/")[0]
            if kind not in CLASSES:
                unknown[kind] += 1
            elif not isinstance(slices, list) or name.count("/") != 2:
                findings.problems.append(f"{path}: {name}: expected class, patient, scan and a list of slices")
            elif name in found:
                findings.problems.append(f"{path}: {name} is in {found[name][0]} already; keep one")
            else:
                found[name] = _LISTS[path.name], {Path(str(item)).stem for item in slices}
        findings.problems += [
            f"{path}: class {kind!r} of {count} scans is not one of {', '.join(CLASSES)}; download it again"
            for kind, count in unknown.items()
        ]
    findings.facts["scans listed"] = len(found)
    return found


def _leaves(items: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(items, dict):
        for name, inner in items.items():
            yield from _leaves(inner, (*names, str(name)))
    elif items is not None:
        yield "/".join(names), items


DATA_SETS = (
    DataSet(
        name="cc_ccii",
        title="CC-CCII",
        read=read,
        marks=("NCP", "CP", "Normal"),
        pretraining=("CC-CCII_disease_classification",),
        size="3,195 scans in the cleaned lists",
        licence="for research",
        address="https://ncov-ai.big.ac.cn/download, lists: https://github.com/HKBU-HPML/HKBU_HPML_COVID-19",
    ),
)
