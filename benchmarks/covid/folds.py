"""Folds of the training split by patient, on which hyper-parameters are chosen without a look at validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold

from datasets.errors import InputError
from datasets.manifest_rows import refuse_rows
from datasets.pretraining_manifest import ClassificationRecord, read_pretraining_manifest

TASK = "UCSD-AI4H_disease_classification"


def write_folds(manifest_dir: Path, out: Path, count: int, seed: int = 0) -> list[Path]:
    """Folders out/fold_0 and on, each with manifests of the task; their `val` is a share of the training patients.

    Slices of one patient stay together, and the classes keep their shares as far as that allows.  Raises InputError
    where the training manifest is missing or wrong, or has fewer patients than folds.
    """
    records = read_training(manifest_dir)
    patients = [record.patient_id for record in records]
    if count < 2 or len(set(patients)) < count:
        raise InputError(f"--folds {count}: give 2 or more, and no more than there are patients ({len(set(patients))})")
    labels = [str(record.disease_label) for record in records]
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folders = []
    for number, parts in enumerate(splitter.split(labels, labels, patients)):
        folder = out / f"fold_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for split, indices in zip(("train", "val"), parts, strict=True):
            _write(folder / f"{TASK}_{split}.json", [records[index] for index in indices])
        folders.append(folder)
    return folders


def read_training(manifest_dir: Path) -> list[ClassificationRecord]:
    """The training records with absolute paths."""
    path = manifest_dir / f"{TASK}_train.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with python -m datasets.prepare ucsd_covid_ct")
    where, records, faults = read_pretraining_manifest(path, "classification", None)
    refuse_rows(where, faults)
    return [record for record in records.values() if isinstance(record, ClassificationRecord)]


def _write(path: Path, records: Sequence[ClassificationRecord]) -> None:
    rows = [
        {"image_path": row.image_path, "disease_label": row.disease_label, "patient_id": row.patient_id}
        for row in records
    ]
    path.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
