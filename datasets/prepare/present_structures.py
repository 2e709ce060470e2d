"""Which structures a case really has: a request for an absent one would be answered by an empty mask.

Only cases of segmentation questions are read, by voxels.  What was found is kept beside prepared.json by the size and
time of the files, so that a second run, or one after an interruption, reads no mask again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Case
from datasets.prepare.mask_voxels import mask_values
from datasets.prepare.processes import in_processes
from datasets.prepare.progress import shown
from datasets.whole_files import written_whole

NAME = "present_structures.json"
_KEPT_EVERY = 200  # cases


def present_structures(
    cases: Sequence[Case], takes: Callable[[str], bool], kept: Path, workers: int = 1
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """By case the structures with a voxel, of those that `takes` names; and faults of masks, by case.

    kept: the file where what was found is kept.
    """
    asked = [replace(case, masks={label: mask for label, mask in case.masks.items() if takes(label)}) for case in cases]
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    found: dict[str, dict] = {}
    new = []
    for case in asked:
        state = _state(case)
        if (known := before.get(case.id)) and known["state"] == state:
            found[case.id] = known
        else:
            new.append(case)
    faults: dict[str, list[str]] = {}
    for number, (case, (present, fault)) in enumerate(
        shown(zip(new, in_processes(structures_of, new, workers), strict=True), len(new), "structures in masks")
    ):
        if fault:
            faults[case.id] = [fault]
        else:
            found[case.id] = {"state": _state(case), "present": present}
        if number % _KEPT_EVERY == _KEPT_EVERY - 1:
            _keep(kept, found)
    if new and not faults:
        _keep(kept, {case.id: found[case.id] for case in asked})
    return {case: entry["present"] for case, entry in found.items()}, faults


def structures_of(case: Case) -> tuple[list[str], str]:
    """The labels of a case's masks that have a voxel, and empty; or none, and what is wrong."""
    reading = lru_cache(maxsize=2)(mask_values)  # labels of one file mostly follow each other
    present = []
    try:
        for label, mask in case.masks.items():
            for path in mask.files:
                values = reading(path)
                if values if mask.values is None else values & set(mask.values):
                    present.append(label)
                    break
    except InputError as error:
        return [], str(error)
    return present, ""


def _state(case: Case) -> str:
    """What changes when a mask or what is asked of it does."""
    parts = []
    for label, mask in case.masks.items():
        for path in mask.files:
            status = path.stat()
            parts.append([label, mask.values, str(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _keep(path: Path, found: dict[str, dict]) -> None:
    with written_whole([path]) as (part,):
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
