"""Pretraining manifests of the published form into ours and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.catalog import PretrainingTask, published_tasks
from datasets.errors import InputError
from datasets.label_descriptions import canonical
from datasets.manifest_rows import SPLIT_NAMES, ManifestError, ManifestRows, refuse_rows, rows_of, splits_in
from datasets.prepare.moved_paths import with_moved_paths
from datasets.pretraining_manifest import read_record
from datasets.published_pretraining import NAMES, folder_of_paths, named_classes
from datasets.vocabulary import Kind
from datasets.whole_files import write_rows, written_whole

PATHS = ("image_path", "img_path", "renorm_image", "renorm_segmentation_dir", "mask_path", "image", "mask")
SEGMENTATION_FIELDS = {"labels", "mask_path", "mask_values", "renorm_segmentation_dir"}
Record = dict[str, Any]


def files_of(source: Path) -> list[tuple[str | None, Path]]:
    """The files that a name stands for, with their splits: of a name with `{split}` those that are there."""
    if "{split}" not in source.name:
        return [(None, source)]
    named = [(split, source.with_name(source.name.replace("{split}", split))) for split in SPLIT_NAMES]
    found: list[tuple[str | None, Path]] = [(split, path) for split, path in named if path.is_file()]
    if not found:
        raise ManifestError(f"{source}: no such manifest, for none of the splits {', '.join(SPLIT_NAMES)}")
    return found


def convert_pretraining(source: Path, target: Path, to: str, task: str = "", check_files: bool = True) -> int:
    """Write `target` in the form `to` ("ours", "published"); gives the number of records.

    task: the published task whose labels number the classes; where empty, the one that the source is named after.
    Raises ManifestError with every fault of the records, InputError where `target` has no room for the splits.
    """
    given = _rows_by_split(source)
    every = [values for rows in given.values() for _, values in rows.numbered]
    kind, known = _kind_of(every), _task_of(source, task)
    labels, loss = (known.labels, known.loss) if known and known.kind == "classification" else (None, None)
    _check_target(target, to, kind, list(given))
    first = files_of(source)[0][1]
    folder, aim = folder_of_paths(first, every), target.parent
    converted: dict[str | None, list[Record]] = {}
    faults: list[str] = []
    for split, rows in given.items():
        wrong = []
        converted[split] = []
        for row, values in rows.numbered:
            _, complaints = read_record(values, kind, folder, labels, loss, check_files=check_files)
            try:
                if not complaints:
                    record = _to_ours(values, kind, labels) if to == "ours" else _to_published(values, kind, labels)
                    converted[split].append(with_moved_paths(record, PATHS, folder, aim))
            except ValueError as error:
                complaints = [f"field {error}"]
            wrong += [(row, complaint) for complaint in complaints]
        try:
            refuse_rows(rows.where, wrong)
        except ManifestError as error:
            faults += error.faults
    if faults:
        raise ManifestError(f"{faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""), faults)
    _write(target, converted)
    return len(every)


def _rows_by_split(source: Path) -> dict[str | None, ManifestRows]:
    files = files_of(source)
    if files[0][0] is None and source.suffix != ".jsonl" and (splits := splits_in(source)):
        return {split: rows_of(source, split) for split in splits}
    found = {split: rows_of(path, split) for split, path in files}
    if not any(rows.numbered for rows in found.values()):
        raise ManifestError(f"{source}: no records")
    return found


def _kind_of(records: Sequence[Any]) -> Kind:
    """What the records are for, by the fields of the first."""
    fields = next((set(record) for record in records if isinstance(record, dict)), set())
    if fields & SEGMENTATION_FIELDS:
        return "segmentation"
    return "image_text" if fields & {"report", "answer"} else "classification"


def _task_of(source: Path, name: str) -> PretrainingTask | None:
    tasks = {task.name: task for task in published_tasks()}
    if name and name not in tasks:
        raise InputError(f"--task {name}: is not one of the published tasks; they are in data/pretraining_tasks.json")
    stem = source.stem.replace("_{split}", "")
    return tasks.get(name or next((stem.removesuffix(end) for end in ("", *(f"_{split}" for split in SPLIT_NAMES))
                                   if stem.removesuffix(end) in tasks), ""))  # fmt: skip


def _check_target(target: Path, to: str, kind: Kind, splits: Sequence[str | None]) -> None:
    lines = to == "published" and kind == "segmentation"
    if lines and target.suffix != ".jsonl":
        raise InputError(f"{target}: published segmentation records are JSON lines; end TARGET in .jsonl")
    if splits != [None] and "{split}" not in target.name and (to == "ours" or lines):
        raise InputError(
            f"{target}: SOURCE has the splits {', '.join(map(str, splits))}; put {{split}} into TARGET's name"
        )
    if splits == [None] and "{split}" in target.name:
        raise InputError(f"{target}: SOURCE has no splits, so TARGET's name must do without {{split}}")


def _to_ours(values: Record, kind: Kind, labels: Sequence[str] | None) -> Record:
    record = {NAMES[kind].get(name, name): value for name, value in values.items()}
    classes: Any = record.get("disease_label")
    if kind == "classification" and _are_numbers(classes):
        record["disease_label"] = named_classes(classes, _needed(labels))
    return record


def _to_published(values: Record, kind: Kind, labels: Sequence[str] | None) -> Record:
    if kind == "segmentation" and "renorm_image" not in values:
        raise ValueError("image_path: a whole volume; published segmentation records are of preprocessed crops alone "
                         "(renorm_image), which SAT-DS writes")  # fmt: skip
    if values.get("hu_offset"):
        raise ValueError("hu_offset: the published form has no words for it; write the volume in HU")
    names = {ours: published for published, ours in NAMES[kind].items() if ours != "disease_label"}
    record = {names.get(name, name): value for name, value in values.items()}
    if kind == "classification":
        name = "label" if "label" in values else "disease_label"
        record["disease_label"] = _numbered(record.pop(name), labels)
    return record


def _numbered(given: Any, labels: Sequence[str] | None) -> int | list[int]:
    """The number of a class, or 0 or 1 for every label."""
    if _are_numbers(given):
        return given
    places = {canonical(label): place for place, label in enumerate(_needed(labels))}
    if isinstance(given, str):
        return places[canonical(given)]
    truth = {canonical(label): 1 for label in given} if isinstance(given, list) else {
        canonical(label): value for label, value in given.items()}  # fmt: skip
    if isinstance(given, dict) and (unknown := [label for label in places if truth.get(label) is None]):
        raise ValueError(f"disease_label: {unknown[0]!r} is unknown; the published form knows 0 and 1 alone")
    return [int(truth.get(label, 0)) for label in places]


def _are_numbers(classes: Any) -> bool:
    return type(classes) is int or (isinstance(classes, list) and classes != [] and not isinstance(classes[0], str))


def _needed(labels: Sequence[str] | None) -> Sequence[str]:
    if labels is None:
        raise ValueError("disease_label: classes go by number in the published form; name their task by --task")
    return labels


def _write(target: Path, converted: dict[str | None, list[Record]]) -> None:
    lines = target.suffix == ".jsonl"
    if "{split}" in target.name:
        places = [target.with_name(target.name.replace("{split}", str(split))) for split in converted]
        with written_whole(places) as parts:
            for part, records in zip(parts, converted.values(), strict=True):
                write_rows(part, records, lines)
        return
    with written_whole([target]) as (part,):
        write_rows(part, converted[None] if list(converted) == [None] else converted, lines)
