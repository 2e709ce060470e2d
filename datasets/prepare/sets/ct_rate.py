"""CT-RATE, version 2: chest CT with 18 labels, reports, and questions.

The volumes of version 2 (`dataset/train_fixed`, `dataset/valid_fixed`) are in HU and have true headers; slope and
intercept of the metadata tables are those of the first version and must not be applied again.  That version
(`dataset/train`, `dataset/valid`), whose headers are placeholders, is refused.  A part of the volumes is enough.

The official validation set is the test set of the benchmarks; validation patients are drawn from the training set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from datasets.prepare.case import Case, Findings
from datasets.prepare.chest_volumes import (
    ChestVolume,
    excluded_volumes,
    find_volumes,
    read_labels,
    read_volume_tables,
)
from datasets.prepare.ct_rate_questions import read_questions
from datasets.prepare.data_set import DataSet
from datasets.prepare.tables import examples
from datasets.prepare.trees import inside
from datasets.vocabulary import diseases_of

ADDRESS = "https://huggingface.co/datasets/ibrahimhamamci/CT-RATE"
_FOLDERS = {"train": "train_fixed", "valid": "valid_fixed"}
_REPORTS = {"train": "train_reports.csv", "valid": "validation_reports.csv"}
_METADATA = {"train": "train_metadata.csv", "valid": "validation_metadata.csv"}
_NOTHING = "not given."


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a reconstruction (`train_1_a_1`), in the order of splits and names."""
    dataset = inside(source, "dataset")
    volumes = _volumes(dataset, findings)
    if not volumes:
        return []
    parts = sorted({volume.part for volume in volumes.values()})
    findings.warnings += [
        f"{dataset / folder}: no volume is here, so nothing of this part is made"
        for part, folder in _FOLDERS.items()
        if part not in parts
    ]
    labels = read_labels(dataset, parts, diseases_of("CT-RATE"), findings)
    reports = _reports(dataset, parts, findings)
    excluded = excluded_volumes(dataset, parts, findings)
    questions = read_questions(dataset / "vqa", parts, set(volumes), findings)
    _note_metadata(dataset, parts, set(volumes), findings)
    cases = []
    for name, volume in volumes.items():
        if name in excluded:
            findings.excluded[volume.id] = "is not a chest (no_chest list)"
            continue
        report = reports.get(name, "")
        if name in reports and not report:
            findings.excluded[f"{volume.id} (CTRATE_image_text)"] = "findings and impressions are both empty"
        cases.append(
            Case(
                volume.id,
                volume.patient,
                volume.path,
                volume.split,
                classes=labels.get(name),
                report=report,
                questions=questions.get(name, ()),
            )
        )
    _note_missing("labels", set(labels), volumes, findings)
    _note_missing("a report", set(reports), volumes, findings)
    return cases


def _volumes(dataset: Path, findings: Findings) -> dict[str, ChestVolume]:
    """The volumes of version 2 by file name."""
    first_version = [name for name in ("train", "valid") if (dataset / name).is_dir()]
    fixed = [name for name in _FOLDERS.values() if (dataset / name).is_dir()]
    if first_version and not fixed:
        findings.problems.append(
            f"{dataset / first_version[0]}: this is version 1 of CT-RATE, whose headers hold placeholders for spacing, "
            f"orientation and units; download version 2, dataset/train_fixed and dataset/valid_fixed, from {ADDRESS}"
        )
        return {}
    if first_version:
        findings.warnings.append(f"{dataset / first_version[0]}: volumes of version 1 are left out")
    findings.version = "v2"
    found, odd = find_volumes(dataset, _FOLDERS, findings)
    if odd:
        findings.warnings.append(
            f"{dataset}: {examples(odd)} of the volumes are left out, since they are not named as CT-RATE names them "
            "(train_1_a_1.nii.gz in train_fixed, valid_1_a_1.nii.gz in valid_fixed)"
        )
    if not found:
        findings.problems.append(
            f"{dataset}: no volume of CT-RATE is here; give the folder that holds dataset/train_fixed and "
            f"dataset/valid_fixed, from {ADDRESS}"
        )
    return found


def _reports(dataset: Path, parts: list[str], findings: Findings) -> dict[str, str]:
    """Findings and impressions by file name; empty where neither is given."""
    folder = dataset / "radiology_text_reports"
    rows = read_volume_tables(folder, _REPORTS, parts, ("Findings_EN", "Impressions_EN"), findings)
    return {name: _joined(row["Findings_EN"], row["Impressions_EN"]) for name, row in rows.items()}


def _joined(findings_text: str, impressions: str) -> str:
    return " ".join(text for text in (findings_text, impressions) if text.casefold() not in ("", _NOTHING, "not given"))


def _note_metadata(dataset: Path, parts: list[str], names: set[str], findings: Findings) -> None:
    folder = dataset / "metadata"
    if not any((folder / _METADATA[part]).is_file() for part in parts):
        findings.warnings.append(f"{folder}: has no table of metadata; the manufacturers are not counted")
        return
    rows = read_volume_tables(folder, _METADATA, parts, ("Manufacturer",), findings)
    makers = Counter(row["Manufacturer"] for name, row in rows.items() if name in names)
    findings.facts["manufacturers"] = dict(sorted(makers.items()))


def _note_missing(what: str, rows: set[str], volumes: Mapping[str, ChestVolume], findings: Findings) -> None:
    """Rows without a volume are those of a part that was not downloaded; a volume without a row has not got `what`."""
    findings.facts[f"rows with {what}"] = len(rows)
    if absent := rows - set(volumes):
        findings.warnings.append(
            f"{len(absent):,} of the {len(rows):,} volumes with {what} were not downloaded; they are left out"
        )
    if rows and (bare := set(volumes) - rows):
        findings.warnings.append(f"{examples(bare)} of the {len(volumes):,} volumes have no row with {what}")


DATA_SETS = (
    DataSet(
        name="ct_rate",
        title="CT-RATE",
        read=read,
        marks=("dataset/multi_abnormality_labels/*_predicted_labels.csv", "dataset/[tv][ra]*"),  # train, valid
        pretraining=("CTRATE_image_text",),
        instruction=("CTRATE_Diagnosis", "CTRATE_Question_Answer"),
        benchmarks=("CT-RATE-diagnosis", "CT-RATE-VQA"),
        size="50,188 volumes of 21,304 patients",
        licence="CC BY-NC-SA 4.0, access on request",
        address=ADDRESS,
        patients="ct_rate",
    ),
)
