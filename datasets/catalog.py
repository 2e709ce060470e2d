"""The pretraining tasks: the 39 published ones, those of further data sets and of phantoms, and their records.

The manifest of a task is <manifest_dir>/<name>_<split>.json; what it holds says `datasets.pretraining_manifest`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets.errors import InputError
from datasets.label_descriptions import has_side
from datasets.manifest_rows import read_rows
from datasets.named_numbers import named_numbers
from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.phantom.details import DETAILS
from datasets.phantom.lesions import DISEASES, lesion_parts
from datasets.phantom.people.structures import read_structures
from datasets.pretraining_manifest import PretrainingRecord, load_pretraining_manifest
from datasets.published_pretraining import find_manifest
from datasets.vocabulary import KINDS, Kind

PUBLISHED_TASKS = Path(__file__).resolve().parent.parent / "data" / "pretraining_tasks.json"
MANIFEST_DIR = "data/pretraining"
# Of data sets that are not among the published ones; a name ends in its kind.
OTHER_TASKS = ("own_image_text", "own_classification", "own_segmentation", "open_kbp_segmentation")
_IMAGES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class PretrainingTask:
    """One source of data and what is learned from it.

    weight: share in the draws, in any unit.  labels: classes, or structures.  loss: "CE" for one class a volume, "BCE"
    for any number; None for the other kinds, whose loss goes without saying.  manifest: with `{split}` in its name.
    drop_other_labels: structures of the manifest that are not among the labels are left out instead of refused.
    """

    name: str
    kind: Kind
    weight: float
    manifest: str
    labels: tuple[str, ...] = ()
    loss: Literal["CE", "BCE"] | None = None
    is_2d: bool = False
    drop_other_labels: bool = False

    def path(self, split: str = "train") -> Path:
        """The manifest of a split: <name>_<split>.json, or the published form where that alone is there."""
        return find_manifest(Path(self.manifest.format(split=split)), split)

    @property
    def sided(self) -> bool:
        """Whether left and right must not be mixed up: a label has a side, and a report may always name one."""
        return self.kind == "image_text" or any(has_side(label) for label in self.labels)


def published_tasks(manifest_dir: str | Path = MANIFEST_DIR) -> list[PretrainingTask]:
    """The 39 tasks of the paper with labels, loss and weight, in its order."""
    return [
        PretrainingTask(
            name=task["name"],
            kind=task["kind"],
            weight=float(task["weight"]),
            manifest=f"{_braces_kept(manifest_dir)}/{task['name']}_{{split}}.json",
            labels=tuple(task["labels"]),
            loss=task["loss"] if task["kind"] == "classification" else None,
            is_2d=task["is_2d"],
        )
        for task in json.loads(PUBLISHED_TASKS.read_text(encoding="utf-8"))
    ]


def other_tasks(manifest_dir: str | Path = MANIFEST_DIR, split: str = "train") -> list[PretrainingTask]:
    """The tasks of further data sets whose manifests are in the folder, with weight 1 and the labels that these name.

    split: of the manifest that a task must have.

    Tasks are of 2D images where every record's is a PNG or JPEG.  Raises ManifestError for a damaged manifest.
    """
    found = []
    for name in OTHER_TASKS:
        paths = {part: Path(manifest_dir) / f"{name}_{part}.json" for part in ("train", "val", "test")}
        if not paths[split].is_file():
            continue
        kind = next(kind for kind in KINDS if name.endswith(kind))
        rows = [row for path in paths.values() if path.is_file() for row in read_rows(path) if isinstance(row, dict)]
        labels = {label: None for row in rows for label in row.get("disease_label") or row.get("labels") or ()}
        is_2d = all(str(row.get("image_path")).lower().endswith(_IMAGES) for row in rows)
        manifest = f"{_braces_kept(manifest_dir)}/{name}_{{split}}.json"
        loss: Literal["BCE"] | None = "BCE" if kind == "classification" else None
        found.append(PretrainingTask(name, kind, 1.0, manifest, tuple(labels), loss, is_2d))
    return found


def phantom_tasks(folder: str | Path, weights: Mapping[str, float] | None = None) -> list[PretrainingTask]:
    """The five tasks of a folder that `datasets.phantom.dataset` wrote.

    Each name has `phantom_` in front: image_text, classification (diseases), detail_classification (diseases with side,
    number, size, zone and kind), segmentation (organs) and lesion_segmentation (diseases, their sides and sites).

    weights: by name without `phantom_`.  The default is 1, but 0 for two tasks: detail_classification has the diseases
    once more, and lesion_segmentation is more than the mask decoder can learn from scratch in a few hundred steps, so
    that it would keep the decoder from learning organs.

    A folder of person phantoms (`datasets.phantom.people.dataset`) has image_text and segmentation alone.
    Raises InputError where its list of structures is damaged.
    """
    people = read_structures(folder)
    diseases = tuple(disease.lower() for disease in DISEASES)
    parts = tuple(part for name in DISEASES for part in lesion_parts(name))
    tasks: dict[str, tuple[Kind, str, tuple[str, ...]]] = {
        "image_text": ("image_text", "image_text", ()),
        "classification": ("classification", "classification", diseases),
        "detail_classification": ("classification", "details", (*diseases, *DETAILS)),
        "segmentation": ("segmentation", "segmentation", (*STRUCTURES, *GROUPS)),
        "lesion_segmentation": ("segmentation", "segmentation", (*diseases, *parts)),
    }
    if people is not None:
        tasks = {"image_text": tasks["image_text"], "segmentation": ("segmentation", "segmentation", tuple(people))}
    weights = {"detail_classification": 0.0, "lesion_segmentation": 0.0, **(weights or {})}
    return [
        PretrainingTask(
            name=f"phantom_{name}",
            kind=kind,
            weight=float(weights.get(name, 1.0)),
            manifest=f"{_braces_kept(folder)}/pretraining/{manifest}_{{split}}.json",
            labels=labels,
            loss="BCE" if kind == "classification" else None,
            drop_other_labels=kind == "segmentation",  # organs and lesions stand in one manifest
        )
        for name, (kind, manifest, labels) in tasks.items()
    ]


def select_tasks(
    tasks: Sequence[PretrainingTask], kinds: Collection[str] = KINDS, weights: Sequence[str] = ()
) -> list[PretrainingTask]:
    """The tasks of some kinds; `weights` are ``name=number``, and 0 leaves a task out.

    Raises InputError for an unknown kind or name, a weight that is no number of 0 or more, or if no task is left.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise InputError(f"{unknown[0]!r} is not a kind of pretraining; choose from {', '.join(KINDS)}")
    given = named_numbers(weights, [task.name for task in tasks], "task weight", "the tasks ")
    weighed = [replace(task, weight=given.get(task.name, task.weight)) for task in tasks]
    chosen = [task for task in weighed if task.kind in kinds and task.weight > 0]
    if not chosen:
        raise InputError(f"no pretraining task of kind {', '.join(kinds)} has a weight above 0")
    return chosen


def available_tasks(
    tasks: Sequence[PretrainingTask], skip_missing: bool = False, split: str = "train"
) -> tuple[list[PretrainingTask], list[PretrainingTask]]:
    """Tasks whose manifest of the split exists, and those whose does not.

    Raises InputError that names every missing manifest, unless `skip_missing`; and if none exists at all.
    """
    found = [task for task in tasks if task.path(split).is_file()]
    missing = [task for task in tasks if not task.path(split).is_file()]
    if missing and (not skip_missing or not found):
        names = ", ".join(f"{task.name} ({task.path(split)})" for task in missing)
        what_to_do = "write at least one of them" if skip_missing else "write them, or give --skip_missing_tasks"
        raise InputError(f"{len(missing)} of {len(tasks)} tasks have no manifest; {what_to_do}: {names}")
    return found, missing


def load_records(
    tasks: Sequence[PretrainingTask],
    split: str = "train",
    check_files: bool = True,
    leave_out: Mapping[tuple[Path, str | None], Collection[int]] | None = None,
) -> dict[str, list[PretrainingRecord]]:
    """The records of each task by its name; raises ManifestError, which names file, row and field.

    leave_out: rows that are passed over, by manifest and split.
    """
    return {
        task.name: load_pretraining_manifest(
            task.path(split),
            task.kind,
            task.labels,
            task.loss,
            split=split,
            drop_other_labels=task.drop_other_labels,
            check_files=check_files,
            leave_out=(leave_out or {}).get((task.path(split), split), ()),
        )
        for task in tasks
    }


def _braces_kept(folder: str | Path) -> str:
    return str(folder).replace("{", "{{").replace("}", "}}")
