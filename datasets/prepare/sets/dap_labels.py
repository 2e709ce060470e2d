"""The values of the DAP Atlas's 142 labels, and which of them make the labels that pretraining takes beside these.

The atlas numbers muscle to colon, then the rectum, then gallbladder to left subclavian artery, one after the other, in
the order of the task's labels, which have no rectum.  Sources differ in where that begins: by SAT-DS's list muscle is 1
and the left subclavian artery 143; by the label table of the files muscle is 2, behind a value for what is not yet
annotated, and the artery 144.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.catalog import published_tasks
from datasets.errors import InputError
from datasets.prepare.path_patterns import find_paths
from datasets.prepare.segmentation import Values
from datasets.volume.readers import read_raw

TASK = "DAP_segmentation"
_LAST_BEFORE_RECTUM, _LAST = "colon", "left subclavian artery"
_PARTS_OF_LUNGS = {
    "left lung": ("left lung lower lobe", "left lung upper lobe"),
    "right lung": ("right lung lower lobe", "right lung middle lobe", "right lung upper lobe"),
}


def dap_values(first: int) -> dict[str, Values]:
    """The value or values of each of the task's labels, where muscle has the value `first`."""
    labels = next(task.labels for task in published_tasks() if task.name == TASK)
    count, before_rectum = labels.index(_LAST) + 1, labels.index(_LAST_BEFORE_RECTUM) + 1
    single = {label: first + place + (place >= before_rectum) for place, label in enumerate(labels[:count])}
    values: dict[str, Values] = dict(single)
    for label in labels[count:]:
        values[label] = tuple(single[part] for part in _parts(label, list(single)))
    return values


def _parts(label: str, single: list[str]) -> list[str]:
    """The labels of the atlas that a further label joins."""
    if label in _PARTS_OF_LUNGS:
        return list(_PARTS_OF_LUNGS[label])
    if label == "lung":
        return [part for parts in _PARTS_OF_LUNGS.values() for part in parts]
    if label.endswith("vertebrae"):  # cervical, thoracic, lumbar, all
        return [name for name in single if name.startswith(label) or (label == "vertebrae" and f" {label} " in name)]
    if label in ("rib", "left rib", "right rib"):
        return [name for name in single if f"{name} ".find(f"{label} ") >= 0 and name[-1].isdigit()]
    return [f"{side} {label}" for side in ("left", "right")]


def numbering_of(source: Path, setting: str) -> str:
    """ "1" or "2": what a setting says, or ("auto") what the first mask shows by its highest value.

    Raises InputError for another setting, or a mask that cannot be read.
    """
    if setting in ("1", "2"):
        return setting
    if setting != "auto":
        raise InputError(f"--set numbering={setting}: give auto, 1 or 2")
    masks = find_paths(source, r"Atlas_final_dataset_V1_533/<id:AutoPET_.*>.nii.gz")
    return "2" if masks and np.rint(read_raw(masks[0].path).array.max()) == 144 else "1"
