"""What a record needs of the disk and is learned from, said alike for the records of both stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets.catalog import PretrainingTask, published_tasks
from datasets.instruction_record import InstructionRecord
from datasets.manifest import read_manifest
from datasets.manifest_rows import SPLIT_NAMES, Fault, rows_of, splits_in
from datasets.mask_files import MaskValue
from datasets.pretraining_manifest import read_pretraining_manifest
from datasets.pretraining_records import ClassificationRecord, PretrainingRecord, SegmentationRecord
from datasets.vocabulary import Kind

Record = InstructionRecord | PretrainingRecord
SEGMENTATION_FIELDS = {"labels", "label", "mask_path", "mask_values", "renorm_segmentation_dir"}


class MaskNeed(NamedTuple):
    """One file of one label's mask.  boxed: it holds a box of the volume, so it has no grid of its own."""

    label: str
    path: str
    values: MaskValue
    boxed: bool


@dataclass(frozen=True)
class RecordNeeds:
    """images: (field, path).  volume: whose grid the masks lie on.  has_truth: whether a target is known; None where
    the record asks for none."""

    images: tuple[tuple[str, str], ...]
    masks: tuple[MaskNeed, ...] = ()
    volume: str = ""
    has_truth: bool | None = None


class ManifestContent(NamedTuple):
    """A manifest's name in messages, its good records by row, and what is wrong with the other rows."""

    where: str
    records: Mapping[int, Record]
    faults: list[Fault]


@dataclass(frozen=True)
class ManifestSource:
    """A manifest, which split of it where it may have several, and how it is read."""

    path: Path
    split: str | None
    read: Callable[[], ManifestContent]


def instruction_source(path: str | Path) -> ManifestSource:
    """An instruction manifest."""

    def read() -> ManifestContent:
        records, faults = read_manifest(path)
        return ManifestContent(str(path), records, faults)

    return ManifestSource(Path(path), None, read)


def task_source(task: PretrainingTask, split: str) -> ManifestSource:
    """The manifest of a pretraining task."""

    def read() -> ManifestContent:
        return ManifestContent(
            *read_pretraining_manifest(
                task.path(split),
                task.kind,
                task.labels,
                task.loss,
                split=split,
                drop_other_labels=task.drop_other_labels,
            )
        )

    return ManifestSource(task.path(split), split, read)


def sources_of(path: str | Path) -> list[ManifestSource]:
    """A manifest of either stage, told by its first record's fields; of a file with several splits each.

    A pretraining manifest that is named after a published task is held against its labels, another against none.
    Raises ManifestError for a file that holds no list.
    """
    path = Path(path)
    splits: Sequence[str | None] = splits_in(path) or [None]
    first = next((values for split in splits for _, values in rows_of(path, split).numbered), None)
    if isinstance(first, dict) and "question" in first:
        return [instruction_source(path)]
    known = {task.name: task for task in published_tasks()}
    ends = ("", *(f"_{split}" for split in SPLIT_NAMES))
    task = next((known[path.stem.removesuffix(end)] for end in ends if path.stem.removesuffix(end) in known), None)
    kind = task.kind if task else kind_of_record(first)
    labels, loss = (task.labels, task.loss) if task else (None, None)

    def reader(split: str | None) -> Callable[[], ManifestContent]:
        return lambda: ManifestContent(*read_pretraining_manifest(path, kind, labels, loss, split=split))

    return [ManifestSource(path, split, reader(split)) for split in splits]


def kind_of_record(values: object) -> Kind:
    """What a pretraining record is for, by its fields."""
    fields = set(values) if isinstance(values, dict) else set()
    if "disease_label" not in fields and fields & SEGMENTATION_FIELDS:
        return "segmentation"
    return "image_text" if fields & {"report", "answer"} else "classification"


def needs_of(record: Record) -> RecordNeeds:
    """The files of a record, and whether anything is known of what it asks for."""
    if isinstance(record, InstructionRecord):
        masks = []
        for number, label in enumerate(record.labels):
            source = record.mask_source(number)
            boxes = source.boxes or [None] * len(source.paths)
            for path, values, box in zip(source.paths, source.file_values, boxes, strict=True):
                if source.boxes is None or box is not None:
                    masks.append(MaskNeed(label, path, values, source.boxes is not None))
        volume = record.image_path[record.mask_image] if masks else ""
        known = any(value is not None for value in record.targets.values()) if record.task == "diagnosis" else None
        return RecordNeeds(tuple(("image_path", path) for path in record.image_path), tuple(masks), volume, known)
    image = record.files()[0]
    if isinstance(record, ClassificationRecord):
        truth = record.disease_label
        known = any(value is not None for value in truth.values()) if isinstance(truth, dict) else True
        return RecordNeeds((image,), has_truth=known)
    if isinstance(record, SegmentationRecord):
        return RecordNeeds((image,), tuple(_masks_of(record)), record.image_path)
    return RecordNeeds((image,))


def _masks_of(record: SegmentationRecord) -> list[MaskNeed]:
    names = record.names or record.labels
    if record.mask_folder is not None:
        boxes = record.boxes or [(0,) * 6] * len(names)
        labels = [label for label, box in zip(names, boxes, strict=True) if box is not None]
        paths = [path for field, path in record.files() if field == "renorm_segmentation_dir"]
        return [MaskNeed(label, path, None, True) for label, path in zip(labels, paths, strict=True)]
    values = record.values or [None] * len(names)
    files = record.mask_files * len(names) if isinstance(record.mask_path, str) else record.mask_files
    return [
        MaskNeed(label, path, value, False)
        for label, value, paths in zip(names, values, files, strict=True)
        for path in paths
    ]
