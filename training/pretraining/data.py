"""What a pretraining run learns from and is validated on: which tasks, from which manifests, and their records."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.catalog import (
    MANIFEST_DIR,
    PretrainingTask,
    available_tasks,
    load_records,
    other_tasks,
    phantom_tasks,
    published_tasks,
    select_tasks,
)
from datasets.errors import InputError
from datasets.label_descriptions import canonical
from datasets.manifest_check.needs import task_source
from datasets.phantom.defaults import DEFAULT_PHANTOMS, ensure_phantoms
from datasets.pretraining_manifest import ImageTextRecord, PretrainingRecord
from training import distributed
from training.data_check import check_data
from training.pretraining.settings import PretrainingSettings, Settings

_TRAIN = "_train.json"


@dataclass(frozen=True)
class PretrainingData:
    """Tasks and their records, by the task's name.

    missing: tasks left out for having no manifest.  decoded: of `tasks`, those that the mask decoder may learn from.
    untrained: validation tasks for zero-shot alone.  source: in words.
    """

    tasks: list[PretrainingTask]
    records: Mapping[str, Sequence[PretrainingRecord]]
    missing: list[PretrainingTask]
    decoded: list[PretrainingTask]
    validation_tasks: list[PretrainingTask]
    validation_records: Mapping[str, Sequence[PretrainingRecord]]
    untrained: list[str]
    source: str

    @property
    def reports(self) -> list[str]:
        """Every report to train on."""
        return [row.report for rows in self.records.values() for row in rows if isinstance(row, ImageTextRecord)]


def with_default_phantoms(settings: Settings) -> Settings:
    """The settings, on phantoms made on the spot where no data are named (`--preset tiny` names none).

    Raises InputError where both a folder of phantoms and one of manifests are named.
    """
    if settings.phantoms and settings.manifest_dir not in ("", MANIFEST_DIR):
        raise InputError(
            f"--phantoms {settings.phantoms} and --manifest_dir {settings.manifest_dir} exclude each other: give one"
        )
    if settings.phantoms or settings.manifest_dir:
        return settings
    return replace(settings, phantoms=DEFAULT_PHANTOMS, cache=settings.cache or f"{DEFAULT_PHANTOMS}/cache")


def read_data(settings: PretrainingSettings) -> PretrainingData:
    """Choose the tasks, read and check their manifests; every rank calls this.

    Raises InputError for tasks or weights that do not fit, and ManifestError, which names file, row and field.
    """
    if settings.phantoms:
        manifest = f"{settings.phantoms}/train.json"
        distributed.from_main(lambda: ensure_phantoms(settings.phantoms, [manifest]))
        every, source = phantom_tasks(settings.phantoms), f"phantoms in {settings.phantoms}"
        named_by = "train"
    else:
        held_out = settings.eval_only and not any(Path(settings.manifest_dir).glob(f"[!.]*{_TRAIN}"))
        named_by = settings.validation_split if held_out else "train"  # whose manifests say which tasks there are
        every = [*published_tasks(settings.manifest_dir), *other_tasks(settings.manifest_dir, named_by)]
        source = f"manifests in {settings.manifest_dir}"
        unknown = check_manifest_names(settings.manifest_dir, [task.name for task in every])
        if unknown:
            said = "not used, since no task has that name: " + "; ".join(unknown)
            distributed.from_main(lambda: print(said, flush=True))
    selected = select_tasks(every, settings.kinds, settings.task_weights)
    tasks, missing = available_tasks(selected, settings.skip_missing_tasks, named_by)
    if not settings.eval_only:
        check_deep_only(settings, tasks)
    decoded = [task for task in tasks if task.name not in settings.deep_only_tasks]
    validation_tasks, untrained = tasks_to_validate(every, decoded, settings.validation_split)
    if settings.eval_only and not validation_tasks:
        raise InputError(f"{source}: no task has a manifest of the {settings.validation_split} split to evaluate on")
    splits = (("train", tasks if named_by == "train" else []), (settings.validation_split, validation_tasks))
    bad = check_data([task_source(task, split) for split, of_split in splits for task in of_split], settings)
    records, validation_records = (load_records(of_split, split, leave_out=bad) for split, of_split in splits)
    source += f": {', '.join(task.name for task in tasks)}"
    return PretrainingData(tasks, records, missing, decoded, validation_tasks, validation_records, untrained, source)


def check_manifest_names(folder: str | Path, known: Sequence[str]) -> list[str]:
    """The training manifests of a folder that have no task's name, with the nearest one.

    Raises InputError where a folder has training manifests, but none with the name of a task.
    """
    found = sorted(path.name.removesuffix(_TRAIN) for path in Path(folder).glob(f"[!.]*{_TRAIN}"))
    if not found or set(found) & set(known):
        others = [name for name in found if name not in known]
        nearest = {name: difflib.get_close_matches(name, known, 1) for name in others}
        return [name + _TRAIN + (f" (nearest: {near[0]}{_TRAIN})" if near else "") for name, near in nearest.items()]
    near = difflib.get_close_matches(found[0], known, n=3, cutoff=0.3) or list(known)[:3]
    raise InputError(
        f"--manifest_dir {folder}: none of its {len(found)} manifests is of a known task; nearest to "
        f"{found[0]}{_TRAIN} are {', '.join(name + _TRAIN for name in near)}"
    )


def check_deep_only(settings: PretrainingSettings, tasks: Sequence[PretrainingTask]) -> None:
    """Raises InputError where a name of ``deep_only_tasks`` is no segmentation, or deep supervision has no weight."""
    names = [task.name for task in tasks if task.kind == "segmentation"]
    for name in settings.deep_only_tasks:
        if name not in names:
            raise InputError(f"--deep_only_tasks {name}: not one of the segmentation tasks here, {', '.join(names)}")
        if not settings.deep_supervision:
            raise InputError(f"--deep_only_tasks {name}: nothing is learned from it with --deep_supervision 0")


def tasks_to_validate(
    every: Sequence[PretrainingTask], trained: Sequence[PretrainingTask], split: str
) -> tuple[list[PretrainingTask], list[str]]:
    """The tasks with a manifest of the split that are trained on, and all others of classification that have a weight.

    Of the others, those whose labels are all learned from another task are as good as trained on; the rest is for
    zero-shot, and the second result names it.
    """
    names = {task.name for task in trained}
    learned = {canonical(label) for task in trained if task.kind == "classification" for label in task.labels}
    found = [task for task in every if task.path(split).is_file()]
    others = [task for task in found if task.name not in names and task.kind == "classification" and task.weight]
    untrained = [task.name for task in others if not task.labels or not learned.issuperset(map(canonical, task.labels))]
    return [task for task in found if task.name in names] + others, untrained
