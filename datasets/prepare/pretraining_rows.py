"""Cases as records of pretraining manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.catalog import PretrainingTask
from datasets.label_descriptions import canonical
from datasets.prepare.case import Case, Mask
from datasets.prepare.progress import shown
from datasets.prepare.uses import taken_by
from datasets.pretraining_manifest import read_record

Record = dict[str, Any]


def pretraining_rows(cases: Sequence[Case], task: PretrainingTask) -> tuple[list[Record], dict[str, str]]:
    """The records of the cases that have what the task needs; and by case what the project's loader says against one.

    The loader's complaints are of labels that the task does not have, which no reader should give.
    """
    rows: list[Record] = []
    faults: dict[str, str] = {}
    for case in shown(cases, len(cases), f"{task.name}: records"):
        row = _row(case, task) if taken_by(case, task.name) else None
        if row is None:
            continue
        labels = task.labels or (() if task.kind == "image_text" else None)
        _, complaints = read_record(row, task.kind, Path("/"), labels, task.loss, check_files=False)
        if complaints:
            faults[case.id] = f"{case.image}: {task.name}, {complaints[0]}"
        else:
            rows.append(row)
    return rows, faults


def _row(case: Case, task: PretrainingTask) -> Record | None:
    """None where the case has nothing of the kind."""
    if case.record is not None:
        return {**case.record, "patient_id": case.patient}
    row: Record = {"image_path": str(case.image)}
    if task.kind == "classification":
        if not case.classes:
            return None
        row["disease_label"] = case.classes if isinstance(case.classes, str) else dict(case.classes)
    elif task.kind == "image_text":
        if not case.report.strip():
            return None
        row["report"] = case.report
    else:
        known = {canonical(label): label for label in task.labels}
        masks = {known.get(canonical(label), label): mask for label, mask in case.masks.items()
                 if not known or canonical(label) in known}  # fmt: skip
        if not masks:
            return None
        row |= {"labels": list(masks), **mask_fields(masks)}
    return {**row, "patient_id": case.patient, **hu_field(case)}


def mask_fields(masks: Mapping[str, Mask]) -> Record:
    """`mask_path` and `mask_values`: one multi-label file where all labels are in it, else what each label has."""
    values: dict[str, int | list[int]] = {
        label: mask.values[0] if len(mask.values) == 1 else list(mask.values)
        for label, mask in masks.items()
        if mask.values is not None
    }
    files = {mask.files for mask in masks.values()}
    if len(files) == 1 and len(values) == len(masks) and len(only := next(iter(files))) == 1:
        return {"mask_path": str(only[0]), "mask_values": values}
    paths = [
        str(mask.files[0]) if len(mask.files) == 1 else [str(path) for path in mask.files] for mask in masks.values()
    ]
    return {"mask_path": paths, "mask_values": values} if values else {"mask_path": paths}


def hu_field(case: Case) -> Record:
    """What is to be added to the stored values, where that is something."""
    return {"hu_offset": case.hu_offset} if case.hu_offset else {}
