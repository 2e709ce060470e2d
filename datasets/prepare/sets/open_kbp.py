"""OpenKBP: planning CT of head and neck with contours of seven organs, as NIfTI with a label map a patient.

`patients.json` says which organs were contoured in whom: one that is not listed was not annotated.  The arrays are
stored as P, L, I, and their headers say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.prepare.case import Case, Findings, Mask, Split
from datasets.prepare.data_set import DataSet, Measured
from datasets.prepare.head_neck.ask import ask
from datasets.prepare.tables import nearest, read_json

TASK = "open_kbp_segmentation"
_SPLITS: dict[str, Split] = {"train": "train", "validation": "val", "test": "test"}
ORGANS = {
    "Brainstem": "brainstem",
    "SpinalCord": "spinal cord",
    "RightParotid": "right parotid gland",
    "LeftParotid": "left parotid gland",
    "Esophagus": "esophagus",
    "Larynx": "larynx",
    "Mandible": "mandible",
}


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a patient, with the masks of the organs that were contoured."""
    path = source / "patients.json"
    if not path.is_file():
        findings.problems.append(f"{path}: is missing; give the folder that holds it, train/ and validation/")
        return []
    given = read_json(path, findings)
    values = given.get("mask_values") if isinstance(given, dict) else None
    if not isinstance(values, dict) or not all(isinstance(value, int) for value in values.values()):
        if given is not None:
            findings.problems.append(f"{path}: field mask_values: must give the value of each organ")
        return []
    cases: dict[str, Case] = {}
    for part, split in _SPLITS.items():
        for number, item in enumerate(given.get(part, ())):
            try:
                case = _case(source, item, values, split)
            except ValueError as error:
                findings.problems.append(f"{path}: {part}, item {number} (from 0), {error}")
                continue
            if case.id in cases:
                findings.problems.append(f"{path}: {part}, item {number} (from 0): {case.id} is listed twice; keep one")
            elif not case.masks:
                findings.excluded[case.id] = "no organ was contoured"
            else:
                cases[case.id] = case
    if not cases:
        findings.problems.append(f"{path}: lists no patient in {', '.join(_SPLITS)}")
    return list(cases.values())


def _case(source: Path, item: Any, values: Mapping[str, int], split: Split) -> Case:
    fields = {"patient": str, "image": str, "organs_mask": str, "organs": list}
    for name, kind in fields.items():
        if not isinstance(item, dict) or not isinstance(item.get(name), kind):
            raise ValueError(f"field {name}: is missing, or no {kind.__name__}")
    for organ in item["organs"]:
        if organ not in ORGANS or organ not in values:
            raise ValueError(f"field organs: {organ!r} is not a known organ with a value{nearest(str(organ), ORGANS)}")
    file = source / item["organs_mask"]
    masks = {ORGANS[organ]: Mask((file,), (values[organ],)) for organ in item["organs"]}
    facts = {"targets": _targets(item.get("targets", {}))}
    return Case(item["patient"], item["patient"], source / item["image"], split, masks=masks, facts=facts)


def _targets(given: Any) -> dict[str, list[float]]:
    """By name the centroid of each planning target volume, in voxel indices of the array as stored."""
    found = {}
    for name, target in given.items() if isinstance(given, dict) else ():
        centroid = target.get("centroid_voxel") if isinstance(target, dict) else None
        if (
            not isinstance(centroid, list)
            or len(centroid) != 3
            or not all(isinstance(n, int | float) for n in centroid)
        ):
            raise ValueError(f"field targets: {name}: centroid_voxel must be three voxel indices")
        found[name] = [float(n) for n in centroid]
    return found


DATA_SETS = (
    DataSet(
        name="open_kbp",
        title="OpenKBP",
        read=read,
        marks=("patients.json", "train", "validation"),
        pretraining=(TASK,),
        measured=Measured("open_kbp", ask),
        size="203 patients of training and validation",
        licence="MIT",
        address="https://github.com/ababier/open-kbp",
    ),
)
