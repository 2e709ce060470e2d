"""Samples of vision pretraining: records become patches, text embeddings, targets and masks, and samples a batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.catalog import PretrainingTask
from datasets.label_descriptions import canonical, describe
from datasets.pretraining_batch import PretrainingBatch
from datasets.pretraining_manifest import ImageTextRecord, PretrainingRecord, SegmentationRecord
from datasets.sampling import SampleReference
from datasets.vocabulary import UNKNOWN_CLASS, Kind
from datasets.volume.anyres import PatchedVolume, PatchGeometry
from datasets.volume.augmentation import (
    STANDARD_AUGMENTATION,
    Augmentation,
    AugmentationOptions,
    content_of,
    place_content,
    place_masks,
)
from datasets.volume.cache import VolumeLoader, VolumeOptions
from datasets.volume.images import load_image
from datasets.volume.loading import VolumeGeometry, read_label_map
from datasets.volume.preprocessed_crops import check_shape, crop_masks, load_crop
from datasets.volume.sparse_masks import SparseMasks, resize_nearest

MAX_STRUCTURES = 60  # asked for in one segmentation step


@dataclass
class PretrainingSample:
    """One volume of a task; shapes and meanings of the fields are those of `PretrainingBatch`.

    id: the file.  labels: the task's classes, or the structures of `masks`, row by row.
    """

    id: str
    task: str
    kind: Kind
    volume: PatchedVolume
    geometry: VolumeGeometry
    patient_id: str = ""
    labels: list[str] = field(default_factory=list)
    report: str = ""
    text_embedding: Tensor | None = None  # (C,)
    label_embeddings: Tensor | None = None  # (n, C): of classes or of structures
    loss: str | None = None
    target: Tensor | None = None  # () int64 for "CE", (n,) float32 for "BCE"
    masks: Tensor | None = None  # (n, X, Y, Z) int8


@dataclass(frozen=True)
class EvaluationReference:
    """One record, as it is: not augmented, with the structures [first, first + MAX_STRUCTURES) of a segmentation."""

    task: str
    index: int
    first: int = 0


class TextTable:
    """Text embeddings by text: made once, before loader processes start, which then share the memory.

    embed: texts -> (n, C) float32 tensor, as `models.text.text_encoder.TextEncoder.encode` does.
    """

    def __init__(self, texts: Iterable[str], embed: Callable[[list[str]], Tensor]):
        distinct = list(dict.fromkeys(texts))
        self.rows = {text: row for row, text in enumerate(distinct)}
        self.embeddings = embed(distinct).float().cpu()

    def __getitem__(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), C)."""
        return self.embeddings[[self.rows[text] for text in texts]]


class PretrainingDataset(Dataset):
    """Samples of several tasks, indexed by `SampleReference` (training) or `EvaluationReference`.

    Args:
        tasks, records: as `datasets.catalog` gives them; every task needs its records.
        embed: texts -> (n, C) tensor; called once, here.
        vision: crop size and patch limit.
        cache: folder of preprocessed volumes and masks, or None; with it no file is decoded a second time.
        augmentation: None for none.

    Raises InputError for a label without a description; a sample raises it for files that cannot be used.
    """

    def __init__(
        self,
        tasks: Sequence[PretrainingTask],
        records: Mapping[str, Sequence[PretrainingRecord]],
        embed: Callable[[list[str]], Tensor],
        vision: PatchGeometry,
        *,
        orientation: str = "RAS",
        resize: str = "published",
        cache: str | None = None,
        augmentation: AugmentationOptions | None = STANDARD_AUGMENTATION,
        max_structures: int = MAX_STRUCTURES,
    ):
        self.tasks = {task.name: task for task in tasks}
        self.records = {task.name: records[task.name] for task in tasks}
        self.max_structures = max_structures
        options = VolumeOptions(vision.crop_size, vision.patch_max, orientation, resize)
        self.volumes = VolumeLoader(options, cache)
        self.images = VolumeLoader(options, cache, load_image)
        self.crops = VolumeLoader(options, cache, load_crop)
        square = vision.crop_size[0] == vision.crop_size[1]
        self.augmentations = {
            task.name: Augmentation(task.sided, task.kind == "segmentation", square, augmentation)
            for task in tasks
            if augmentation is not None
        }
        descriptions = [describe(label) for task in tasks for label in task.labels]
        reports = [
            record.report for rows in self.records.values() for record in rows if isinstance(record, ImageTextRecord)
        ]
        names = [canonical(label) for task in tasks if task.kind == "classification" for label in task.labels]
        self.texts = TextTable([*descriptions, *names, *reports], embed)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.records.values())

    @property
    def sizes(self) -> dict[str, int]:
        """Records of each task, as `MixtureSampler` asks for them."""
        return {name: len(rows) for name, rows in self.records.items()}

    @property
    def prevalence(self) -> float | None:
        """Share of positives among the known labels of the multi-label tasks, by the tasks' weights; None without."""
        shares, weights = [], []
        for task in self.tasks.values():
            if task.loss == "BCE":
                targets = torch.stack(
                    [_target(record.disease_label, task.labels) for record in self.records[task.name]]
                )
                if targets.isfinite().any():
                    shares.append(float(targets.nanmean()))
                    weights.append(task.weight)
        return float(np.average(shares, weights=weights)) if shares else None

    def label_embeddings(self, labels: Sequence[str]) -> Tensor:
        """(n, C): the text encoder's embeddings of the labels' descriptions; the labels are of any of the tasks."""
        return self.texts[[describe(label) for label in labels]]

    def name_embeddings(self, labels: Sequence[str]) -> Tensor:
        """(n, C): embeddings of the bare names of classification labels, which `label_embeddings` does not hold."""
        return self.texts[[canonical(label) for label in labels]]

    def evaluation_references(self, task: str, limit: int | None = None) -> list[EvaluationReference]:
        """Every record of a task (the first `limit`), a segmentation in as many parts as its structures need."""
        references = []
        for index, record in enumerate(self.records[task][:limit]):
            count = len(record.labels) if isinstance(record, SegmentationRecord) else 1
            references += [EvaluationReference(task, index, first) for first in range(0, count, self.max_structures)]
        return references

    def evaluation_samples(self, task: str, limit: int | None = None) -> Iterator[PretrainingSample]:
        """The samples of `evaluation_references`, one after another."""
        return map(self.__getitem__, self.evaluation_references(task, limit))

    def __getitem__(self, reference: SampleReference | EvaluationReference) -> PretrainingSample:
        task, record = self.tasks[reference.task], self.records[reference.task][reference.index]
        training = isinstance(reference, SampleReference)
        loader = self.crops if record.preprocessed else self.images if task.is_2d else self.volumes
        volume, geometry = loader.volume(record.image_path)
        check_shape(record.chwd, geometry)
        sample = PretrainingSample(
            record.image_path, task.name, task.kind, volume, geometry, record.patient_id, loss=task.loss
        )
        masks = None
        if isinstance(record, SegmentationRecord):
            stored = self._masks(record, loader, volume, geometry)
            if training:
                chosen = choose_structures(stored.voxels.tolist(), self.max_structures, reference.seed)
            else:
                chosen = list(range(len(record.labels)))[reference.first :][: self.max_structures]
            masks = stored.dense(chosen)
            sample.labels = [record.names[index] for index in chosen]
            sample.label_embeddings = self.label_embeddings(sample.labels)
        elif isinstance(record, ImageTextRecord):
            sample.report, sample.text_embedding = record.report, self.texts[[record.report]][0]
        else:
            sample.labels, sample.label_embeddings = list(task.labels), self.label_embeddings(task.labels)
            sample.target = _target(record.disease_label, task.labels)
        if training and task.name in self.augmentations:
            image, masks = self.augmentations[task.name](content_of(volume), masks, reference.seed)
            sample.volume = place_content(image, volume.placement)
        if masks is not None:
            sample.masks = place_masks(masks, sample.volume.placement)
        return sample

    def _masks(
        self, record: SegmentationRecord, loader: VolumeLoader, volume: PatchedVolume, geometry: VolumeGeometry
    ) -> SparseMasks:
        """All masks of a record, from the cache if they are there."""
        paths = sorted({path for _, path in record.files()})
        details = {"labels": record.labels, "values": record.values, "boxes": record.boxes, "files": record.mask_path}
        cached = loader.cached("sparse masks", paths, details)
        if cached and cached.is_file():
            return SparseMasks.open(cached)
        masks = SparseMasks.pack(_resized_masks(record, volume, geometry), volume.placement.resized_shape)
        if cached:
            masks.save(cached)
        return masks


def choose_structures(voxels: Sequence[int], limit: int, seed: int) -> list[int]:
    """Which structures a step asks for: the present ones, then absent ones, at most `limit`, in the record's order.

    Absent ones are at most as many as present ones, so that empty masks do not take over, and at least one where there
    is room: a model that never sees one would find everything everywhere.  What is too much is left out at random.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"structures")])
    present = [index for index, count in enumerate(voxels) if count > 0]
    absent = [index for index, count in enumerate(voxels) if count == 0]
    if len(present) > limit:
        present = rng.choice(present, limit, replace=False).tolist()
    room = min(limit - len(present), max(len(present), 1))
    if len(absent) > room:
        absent = rng.choice(absent, room, replace=False).tolist()
    return sorted(present) + sorted(absent)


class PretrainingCollator:
    """Callable that makes samples of one task a `PretrainingBatch`; picklable, for loader processes."""

    def __call__(self, samples: Sequence[PretrainingSample]) -> PretrainingBatch:
        first = samples[0]
        if len({sample.task for sample in samples}) > 1:
            raise ValueError(f"a batch has one task, not {sorted({sample.task for sample in samples})}")
        batch = PretrainingBatch(
            kind=first.kind,
            task=first.task,
            sample_ids=[sample.id for sample in samples],
            volumes=[sample.volume for sample in samples],
            loss=first.loss,
        )
        if first.kind == "image_text":
            batch.text_embeddings = torch.stack([sample.text_embedding for sample in samples])
        elif first.kind == "classification":
            batch.label_embeddings = first.label_embeddings
            batch.targets = torch.stack([sample.target for sample in samples])
        else:
            batch.query_embeddings = [sample.label_embeddings for sample in samples]
            batch.masks = [sample.masks for sample in samples]
        return batch


def _target(truth: str | Mapping[str, int | None], labels: Sequence[str]) -> Tensor:
    """The class's index, or for each label 0, 1 or NaN (unknown)."""
    if isinstance(truth, str):
        return torch.tensor(labels.index(truth) if truth in labels else UNKNOWN_CLASS)
    known = (truth.get(label) for label in labels)
    return torch.tensor([float("nan") if value is None else float(value) for value in known])


def _resized_masks(record: SegmentationRecord, volume: PatchedVolume, geometry: VolumeGeometry) -> Iterator[Tensor]:
    """For each label its mask (w, h, d) bool, read and resized one at a time."""
    placement = volume.placement
    if record.mask_folder is not None:
        for mask in crop_masks(record.mask_folder, record.labels, record.boxes, geometry):
            yield resize_nearest(mask, placement) > 0
        return
    values = record.values or [None] * len(record.labels)
    if isinstance(record.mask_path, str):  # resized once: the nearest voxel's label is the label of the nearest voxel
        label_maps = [resize_nearest(read_label_map(record.mask_path, geometry), placement)] * len(values)
    else:
        label_maps = (resize_nearest(read_label_map(path, geometry), placement) for path in record.mask_path)
    for label_map, value in zip(label_maps, values, strict=True):
        if value is None:
            yield label_map != 0
        else:  # torch.isin sorts, which takes many times as long for a few values
            yield reduce(torch.logical_or, [label_map == single for single in np.atleast_1d(value).tolist()])
