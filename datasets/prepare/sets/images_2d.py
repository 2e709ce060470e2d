"""Data sets of single slices as PNG or JPEG: SARS-CoV-2 CT and UCSD's COVID-CT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.tables import read_lines
from datasets.prepare.trees import files_under, inside

IMAGES = (".png", ".jpg", ".jpeg")
_CLASSES = {True: "affected COVID", False: "not affected COVID"}
_SARS_COV = {"COVID": (True, 1252), "non-COVID": (False, 1230)}
_UCSD = {"COVID": (True, "CT_COVID"), "NonCOVID": (False, "CT_NonCOVID")}
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def read_sars_cov(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a slice of COVID/ and non-COVID/; nobody says whose slices they are, nor splits them."""
    cases = []
    for folder, (is_covid, published) in _SARS_COV.items():
        paths = list(files_under(source / folder, IMAGES))
        if not paths:
            findings.problems.append(f"{source / folder}: no PNG is here; download and unpack the data set again")
        elif len(paths) != published:
            findings.warnings.append(f"{source / folder}: holds {len(paths):,} slices, published are {published:,}")
        cases += [_slice(path, source, _CLASSES[is_covid]) for path in paths]
    findings.warnings.append("the slices name no patient: slices of one patient may be in two splits")
    return cases


def read_ucsd(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a slice of the official lists; panels of one figure (`...-p6-52%0.png`) are taken as one patient's."""
    cases: dict[str, Case] = {}
    lists = {
        (folder, split): source / "Data-split" / folder / f"{split}CT_{folder}.txt"
        for folder in _UCSD
        for split in _SPLITS
    }
    test_alone = {split for (_, split), path in lists.items() if path.is_file()} == {"test"}  # held out, and kept apart
    for folder, (is_covid, images) in _UCSD.items():
        place = _unpacked(source, images, findings)
        for split in _SPLITS:
            path = lists[folder, split]
            if not path.is_file():
                fault = split != "test" and not test_alone
                lines = findings.problems if fault else findings.warnings
                lines.append(f"{path}: is missing" + ("; download Data-split again" if fault else ""))
                continue
            for row, name in enumerate(read_lines(path, findings) if place.is_dir() else [], 1):
                _add_listed(place / name, f"{path}: row {row}", split, is_covid, source, cases, findings)
        if place.is_dir():
            left = [
                file.name for file in files_under(place, IMAGES) if file.relative_to(source).as_posix() not in cases
            ]
            findings.excluded.update(dict.fromkeys((f"{images}/{name}" for name in left), "is in no official list"))
    return list(cases.values())


def _add_listed(
    path: Path, where: str, split: Split, is_covid: bool, source: Path, cases: dict[str, Case], findings: Findings
) -> None:
    if not path.is_file():
        findings.problems.append(f"{where}: {path.name} is not in {path.parent}; download the images again")
        return
    case = _slice(path, source, _CLASSES[is_covid], split)
    if case.id in cases:
        findings.problems.append(f"{where}: {path.name} was already listed in {cases[case.id].split}; keep one")
    cases.setdefault(case.id, case)


def _slice(path: Path, source: Path, label: str, split: Split | None = None) -> Case:
    """The patient is the figure that a slice was cut from: its name without the panel's number behind `%`."""
    name = path.relative_to(source).as_posix()
    return Case(name, re.sub(r"%\d+(?=\.\w+$)", "", name), path, split, classes=label)


def _unpacked(source: Path, name: str, findings: Findings) -> Path:
    """The folder of the slices; a problem where only the archive is there."""
    folder = inside(source, "Images-processed") / name
    if not folder.is_dir():
        archive = folder.with_name(f"{name}.zip")
        what = f"unpack {archive.name}" if archive.is_file() else "download Images-processed"
        findings.problems.append(f"{folder}: is missing; {what}")
    return folder


DATA_SETS = (
    DataSet(
        name="sars_cov",
        title="SARS-CoV-2 CT",
        read=read_sars_cov,
        marks=("COVID", "non-COVID"),
        pretraining=("SARS-COV_disease_classification",),
        size="2,482 slices",
        licence="see its page",
        address="https://www.kaggle.com/datasets/plameneduardo/sarscov2-ctscan-dataset",
    ),
    DataSet(
        name="ucsd_covid_ct",
        title="UCSD COVID-CT",
        read=read_ucsd,
        marks=("Data-split/COVID/trainCT_COVID.txt",),
        pretraining=("UCSD-AI4H_disease_classification",),
        size="746 slices",
        licence="for research; images of open preprints",
        address="https://github.com/UCSD-AI4H/COVID-CT",
    ),
)
