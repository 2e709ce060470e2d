"""SAT-DS: the collection of segmentation sets that most of the published tasks come from, by its own JSON lines.

A line that SAT-DS has prepared (`renorm_image`) becomes a record as it is.  Of a line that names a download alone,
image and mask are taken where the mask is one file of labels; what SAT-DS stacks from several files has to be prepared
first.  Lines of sets that no published task takes are counted and left out.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets.catalog import published_tasks
from datasets.mask_files import mask_file
from datasets.prepare.case import Case, Findings, Mask, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.segmentation import Values, as_values
from datasets.prepare.sets.dap_labels import dap_values, numbering_of
from datasets.prepare.sets.sat_ds_sets import DAP, HU_OFFSETS, MASK_LABELS, PATIENTS, TASKS
from datasets.prepare.sets.totalsegmentator import ORGANS
from datasets.published_pretraining import known_labels

_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_TRIED = 20
Line = Mapping[str, Any]


def read_sat_ds(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """The cases of all lines of all files *.jsonl in `source`, or up to two folders below it."""
    with_pet = SAT_DS.setting(settings, "pet", findings)
    if with_pet not in ("yes", "no"):
        findings.problems.append(f"--set pet={with_pet}: give yes or no")
        return []
    files = sorted(path for pattern in ("*.jsonl", "*/*.jsonl", "*/*/*.jsonl") for path in source.glob(pattern))
    if not files:
        findings.problems.append(f"{source}: no *.jsonl; give the folder that has SAT-DS's data/jsonl")
        return []
    others: Counter[str] = Counter()
    cases: dict[str, Case] = {}
    parts: dict[str, set[Split]] = defaultdict(set)
    for path in files:
        lines = list(_lines(path, findings))
        base = _base(path, [line for _, line in lines])
        for row, line in lines:
            key = _key(str(line.get("dataset") or ""))
            if not key:
                findings.problems.append(f"{path}: line {row}: has no dataset; take the line from SAT-DS again")
                continue
            if key not in TASKS:
                others[str(line.get("dataset", ""))] += 1
                continue
            case = _case(f"{path}: line {row}", line, key, base, with_pet == "yes", findings)
            if case is None:
                continue
            if case.id in cases:
                findings.problems.append(f"{path}: line {row}: {case.id} is listed twice; remove one of the lines")
            cases[case.id] = case
            parts[key] |= {case.split} if case.split else set()
    if others:
        findings.facts["data sets of no task"] = dict(sorted(others.items()))
    # SAT-DS calls all of most data sets "train", as what their authors published; that splits nothing.
    return [
        case if len(parts[_key(case.id.partition("/")[0])]) > 1 else _without_split(case)
        for _, case in sorted(cases.items())
    ]


def _lines(path: Path, findings: Findings) -> Iterator[tuple[int, Line]]:
    findings.tables.append(path)
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        findings.problems.append(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8")
        return
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except json.JSONDecodeError as error:
            findings.problems.append(f"{path}: line {number}: is no JSON ({error.msg}); download the file again")
            continue
        if not isinstance(line, dict):
            findings.problems.append(f"{path}: line {number}: must be a record with dataset, image, mask and label")
            continue
        yield number, line


def _base(path: Path, lines: Sequence[Line]) -> Path:
    """What the paths of a file's lines are relative to: the nearest folder above it in which one of the images exists.

    Only the first lines are tried.
    """
    images = [str(line.get("renorm_image") or line.get("image") or "-") for line in lines[:_TRIED]]
    folder = path.resolve().parent
    above = (folder, *folder.parents)
    return next((place for place in above if any(os.path.exists(place / image) for image in images)), folder)


def _case(where: str, line: Line, key: str, base: Path, with_pet: bool, findings: Findings) -> Case | None:
    """The case of a line; None where it is left out, or has a fault, which is then among the problems."""
    labels, image = line.get("label"), line.get("renorm_image") or line.get("image")
    if not isinstance(labels, list) or not labels or not isinstance(image, str) or not image:
        missing = "label" if not isinstance(labels, list) or not labels else "image"
        findings.problems.append(f"{where}: has no {missing}; take the line from SAT-DS again")
        return None
    dataset = str(line["dataset"])
    id = f"{dataset}/{re.sub(r'(.nii.gz|.npy|.npz|.nii)$', '', image)}"
    if "PET" in str(line.get("modality", "CT")) and not with_pet:
        findings.excluded[id] = "PET, not CT"
        return None
    task = TASKS[key][0]
    known = known_labels(_labels_of(task))
    named = {str(label): known.get(" ".join(str(label).casefold().replace("_", " ").split())) for label in labels}
    left_out = [label for label, name in named.items() if name is None]
    if left_out:
        _warn_once(f"{dataset}: {left_out[0]!r} is no label of {task}; it is left out of its records", findings)
    if len(left_out) == len(named):
        findings.problems.append(f"{where}: none of its labels is one of {task}, such as {left_out[0]!r}")
        return None
    name = line.get("patient_id") or line.get("sample_id")
    patient = _patient(key, str(name or id))
    given = line.get("official_split")
    split = _SPLITS.get(str(given))
    if not name:
        _warn_once(f"{dataset}: lines without patient_id; each of their images counts as a patient", findings)
    if given and split is None:
        _warn_once(f"{dataset}: official_split {given!r} is not one of {', '.join(_SPLITS)}; it is drawn", findings)
    common: dict[str, Any] = {"id": id, "patient": patient, "image": base / image, "split": split, "tasks": TASKS[key]}
    if not (base / image).exists():
        findings.problems.append(f"{where}: no such image: {base / image}; unpack the data, or remove the line")
        return None
    if "renorm_image" in line:
        record = _record(where, line, [label for label, name in named.items() if name], base, findings)
        return Case(**common, record=record) if record else None
    if key not in MASK_LABELS and key != DAP:
        findings.excluded[id] = "its mask is made of several files; prepare it by SAT-DS's convert_to_npy.py"
        return None
    mask = base / str(line.get("mask"))
    if not mask.is_file():
        findings.problems.append(f"{where}: no such mask: {mask}; unpack the data, or remove the line")
        return None
    values = _dap_labels(mask.parent.parent) if key == DAP else MASK_LABELS[key]
    masks = {name: Mask((mask,), as_values(values[name])) for name in named.values() if name and name in values}
    return Case(**common, masks=masks, hu_offset=HU_OFFSETS.get(key, 0.0))


def _warn_once(line: str, findings: Findings) -> None:
    if line not in findings.warnings:
        findings.warnings.append(line)


def _patient(key: str, name: str) -> str:
    """A patient by a name that is the same in all data sets of SAT-DS that are known to share it."""
    pool = PATIENTS.get(key, key)
    number = re.search(r"\d+", name)
    return f"{pool}/{number[0]}" if pool == "lits" and number else f"{pool}/{name}"


@lru_cache(maxsize=1)
def _dap_labels(source: Path) -> Mapping[str, Values]:
    return dap_values(int(numbering_of(source, "auto")))


def _record(where: str, line: Line, labels: list[str], base: Path, findings: Findings) -> dict[str, Any] | None:
    """The record of a prepared line with absolute paths, and with these of its labels."""
    folder, boxes = line.get("renorm_segmentation_dir"), line.get("renorm_y1x1z1_y2x2z2")
    given = [str(label) for label in line["label"]]
    if not isinstance(folder, str) or (boxes is not None and len(boxes) not in (1, len(given))):
        field = "renorm_y1x1z1_y2x2z2 does not fit its labels" if isinstance(folder, str) else "no folder of masks"
        findings.problems.append(f"{where}: {field}; prepare it again by SAT-DS's convert_to_npy.py")
        return None
    by_label = dict(zip(given, boxes * (len(given) if len(boxes) == 1 else 1), strict=True)) if boxes else {}
    present = [label for label in labels if not boxes or by_label[label]]
    paths = [Path(mask_file(str(base / folder), label)) for label in present]
    if missing := [path for path in paths if not path.exists()]:
        findings.problems.append(f"{where}: no such mask: {missing[0]}; unpack the data, or remove the line")
        return None
    record: dict[str, Any] = {"renorm_image": str(base / line["renorm_image"]), "labels": labels}
    record["renorm_segmentation_dir"] = str(base / folder)
    if "chwd" in line:
        record["chwd"] = line["chwd"]
    if boxes:
        record["renorm_y1x1z1_y2x2z2"] = [by_label[label] for label in labels]
    return record


def _labels_of(task: str) -> tuple[str, ...]:
    return next((published.labels for published in published_tasks() if published.name == task), tuple(ORGANS))


def _without_split(case: Case) -> Case:
    return replace(case, split=None)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


SAT_DS = DataSet(
    name="sat_ds",
    title="SAT-DS",
    read=read_sat_ds,
    marks=("data/jsonl/*.jsonl",),
    pretraining=tuple(dict.fromkeys(names[0] for names in TASKS.values() if names[0].endswith("segmentation"))),
    instruction=("AbdomenCT1K_Seg", "CTORG_Seg", "TotalSegmentator_Organ_Seg"),
    benchmarks=("AbdomenCT-1K", "CT-ORG", "TotalSegmentator"),
    size="about 22,000 scans of 72 data sets, of which 31 are taken",
    licence="that of each data set",
    address="https://github.com/zhaoziheng/SAT-DS",
    settings={
        "pet": Setting(
            "no", "yes takes the PET of autoPET and HECKTOR, as SAT-DS does; their own downloads have the CT"
        )
    },
)
DATA_SETS: tuple[DataSet, ...] = (SAT_DS,)
