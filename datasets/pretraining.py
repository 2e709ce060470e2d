"""Samples of vision pretraining: records become patches, text embeddings, targets and masks, and samples a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.catalog import PretrainingTask
from datasets.errors import InputError
from datasets.label_choice import LABELS_PER_STEP, AbsentLabels, choose_labels
from datasets.label_descriptions import canonical, describe
from datasets.pretraining_batch import PretrainingBatch
from datasets.pretraining_manifest import ClassificationRecord, ImageTextRecord, PretrainingRecord, SegmentationRecord
from datasets.record_masks import record_masks
from datasets.sampling import SampleReference, evenly, instead_of
from datasets.text_table import Embed, TextTable
from datasets.vocabulary import UNKNOWN_CLASS, Kind
from datasets.volume.anyres import PatchedVolume, PatchGeometry, content_of, pad_masks, place_content
from datasets.volume.augmentation import STANDARD_AUGMENTATION, Augmentation, AugmentationOptions
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.images import load_image, load_image_by_window
from datasets.volume.mirror import is_mirrored, mirrored, other_side, side_axis
from datasets.volume.preprocessed_crops import check_shape, load_crop
from datasets.volume.preprocessing import Preprocessing
from datasets.volume.window import content_window, draw_window, windowed


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
    loss: Literal["CE", "BCE"] | None = None
    target: Tensor | None = None  # () int64 for "CE", (n,) float32 for "BCE"
    masks: Tensor | None = None  # (n, X, Y, Z) int8


@dataclass(frozen=True)
class EvaluationReference:
    """One record, as it is: not augmented; of a segmentation its labels from `first` on, as many as a step has."""

    task: str
    index: int
    first: int = 0


class PretrainingDataset(Dataset):
    """Samples of several tasks, indexed by `SampleReference` (training) or `EvaluationReference`.

    Args:
        tasks, records: as `datasets.catalog` gives them; every task needs its records.
        embed: texts -> (n, C) tensor; called once, here.
        vision: crop size and patch limit.
        preprocessing: the model's; without it this project's standard for the encoder's patches.
        array_axes: axis codes of .npy and .npz volumes, or "as_stored"; None assumes RAS, with a warning.
        cache: folder of preprocessed volumes and masks, or None; with it no file is decoded a second time.
        augmentation: the published one by default, None for none.
        labels_per_step: most labels that a segmentation step asks for; where a record has more, they are drawn.
        absent_labels: "all" as published, or "balanced", see `datasets.label_choice`.
        window_slices: so many slices of a volume make a segmentation sample in training; 0 takes all.

    Raises InputError for a label without a description, or labels_per_step below 1; a sample raises it for files that
    cannot be used.
    """

    def __init__(
        self,
        tasks: Sequence[PretrainingTask],
        records: Mapping[str, Sequence[PretrainingRecord]],
        embed: Embed,
        vision: PatchGeometry,
        *,
        preprocessing: Preprocessing | None = None,
        array_axes: str | None = None,
        cache: str | None = None,
        augmentation: AugmentationOptions | None = STANDARD_AUGMENTATION,
        labels_per_step: int = LABELS_PER_STEP,
        absent_labels: AbsentLabels = "all",
        window_slices: int = 0,
    ) -> None:
        if labels_per_step < 1:
            raise InputError(f"labels_per_step is {labels_per_step}: a segmentation step needs 1 label or more")
        self.tasks = {task.name: task for task in tasks}
        self.records = {task.name: records[task.name] for task in tasks}
        self.labels_per_step, self.absent_labels, self.window_slices = labels_per_step, absent_labels, window_slices
        preprocessing = preprocessing or Preprocessing.standard(vision.crop_size, vision.patch_max)
        self.volumes = VolumeLoader(preprocessing, cache, array_axes=array_axes)
        by_window = preprocessing.normalisation == "window"
        self.images = VolumeLoader(preprocessing, cache, load_image_by_window if by_window else load_image)
        self.crops = VolumeLoader(preprocessing, cache, load_crop)
        square = vision.crop_size[0] == vision.crop_size[1]
        self.augmentations = {
            task.name: Augmentation(task.sided, task.kind == "segmentation", square, augmentation)
            for task in tasks
            if augmentation is not None
        }
        self.mirror = augmentation.mirror if augmentation is not None else 0.0
        self.side_axis = side_axis(preprocessing.orientation)
        if self.mirror and self.side_axis is None:
            raise InputError("--augment_mirror needs to know left from right: give --orientation RAS, not as_stored")
        descriptions = [describe(label) for task in tasks for label in task.labels]
        self.mirrorable = {task.name: all(other_side(label) in task.labels for label in task.labels) for task in tasks}
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
                records = [row for row in self.records[task.name] if isinstance(row, ClassificationRecord)]
                targets = torch.stack([_target(record, task.labels) for record in records])
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
        """Every record of a task, or `limit` of them from all of its manifest, whose order may be that of its classes.

        A segmentation is in as many parts as its structures need.
        """
        references: list[EvaluationReference] = []
        records = self.records[task]
        for index in evenly(len(records), len(records) if limit is None else limit):
            record = records[index]
            count = len(record.labels) if isinstance(record, SegmentationRecord) else 1
            references += [EvaluationReference(task, index, first) for first in range(0, count, self.labels_per_step)]
        return references

    def instead_of(self, reference: SampleReference) -> SampleReference:
        """The sample that is taken where this one cannot be read."""
        return instead_of(reference, len(self.records[reference.task]))

    def __getitem__(self, reference: SampleReference | EvaluationReference) -> PretrainingSample:
        task, record = self.tasks[reference.task], self.records[reference.task][reference.index]
        loader = self.crops if record.preprocessed else self.images if task.is_2d else self.volumes
        volume, geometry = loader.volume(record.image_path, record.hu_offset)
        check_shape(record.chwd, geometry)
        sample = PretrainingSample(
            record.image_path, task.name, task.kind, volume, geometry, record.patient_id, loss=task.loss
        )
        masks = None  # (n, w, h, d) of the resized volume, before padding
        if isinstance(record, SegmentationRecord):
            stored = record_masks(record, loader, volume.placement, geometry)
            if isinstance(reference, SampleReference):
                chosen = choose_labels(stored.voxels.tolist(), self.labels_per_step, reference.seed, self.absent_labels)
            else:
                chosen = list(range(len(record.labels)))[reference.first :][: self.labels_per_step]
            masks = stored.dense(chosen)
            sample.labels = [record.names[index] for index in chosen]
            sample.label_embeddings = self.label_embeddings(sample.labels)
        elif isinstance(record, ImageTextRecord):
            sample.report, sample.text_embedding = record.report, self.texts[[record.report]][0]
        elif isinstance(record, ClassificationRecord):
            sample.labels, sample.label_embeddings = list(task.labels), self.label_embeddings(task.labels)
            sample.target = _target(record, task.labels)
        if isinstance(reference, SampleReference):
            masks = self._varied(sample, masks, reference.seed)
        if masks is not None:
            sample.masks = pad_masks(masks, len(masks), sample.volume.placement)
        return sample

    def _varied(self, sample: PretrainingSample, masks: Tensor | None, seed: int) -> Tensor | None:
        """Put a window, the mirrored patient and augmentation of the sample, as these are on, in its place.

        masks (n, w, h, d) of the resized volume, before padding -> the same, varied with the volume.
        """
        augmentation, placement = self.augmentations.get(sample.task), sample.volume.placement
        if augmentation is None and not (self.window_slices and masks is not None):
            return masks
        image = content_of(sample.volume)
        if self.window_slices and masks is not None:
            image, masks = content_window(image, masks, draw_window(masks, self.window_slices, seed))
            placement = windowed(placement, image.shape[-1])
        if augmentation is not None:
            axis = self.side_axis if self.mirrorable[sample.task] and is_mirrored(seed, self.mirror) else None
            if masks is not None and axis is not None:
                image, masks, sample.labels = mirrored(image, masks, sample.labels, axis)
                sample.label_embeddings = self.label_embeddings(sample.labels)
            image, masks = augmentation(image, masks, seed)
        sample.volume = place_content(image, placement.for_content(tuple(image.shape[1:])))
        return masks


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
            batch.text_embeddings = _stacked([sample.text_embedding for sample in samples])
        elif first.kind == "classification":
            batch.label_embeddings = first.label_embeddings
            batch.targets = _stacked([sample.target for sample in samples])
        else:
            batch.query_embeddings = [_given(sample.label_embeddings) for sample in samples]
            batch.masks = [_given(sample.masks) for sample in samples]
        return batch


def _target(record: ClassificationRecord, labels: Sequence[str]) -> Tensor:
    """The class's index, () int64, or for each label 0, 1 or NaN (unknown), (n,) float32."""
    truth = record.disease_label
    if isinstance(truth, str):
        return torch.tensor(labels.index(truth) if truth in labels else UNKNOWN_CLASS)
    values = dict.fromkeys(truth, 1) if isinstance(truth, list) else truth
    known = (values.get(label) for label in labels)
    return torch.tensor([float("nan") if value is None else float(value) for value in known])


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([_given(tensor) for tensor in tensors])


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a sample lacks what its kind has to have")
    return tensor
