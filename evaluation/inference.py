"""Answers for many questions or for one: text, masks on the source grid, confidences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.anyres import restore_masks
from datasets.errors import InputError
from datasets.geometry import AS_STORED, VolumeGeometry
from datasets.instruction import InstructionCollator, InstructionDataset, InstructionSample
from datasets.manifest import InstructionRecord
from datasets.volume import read_mask, save_mask
from evaluation.predictions import PredictionWriter
from evaluation.segmentation import missing_mask_scores, segmentation_scores
from models.ctinstruct import CTInstruct, Prediction


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are searched for; the defaults are the published ones."""

    num_beams: int = 5
    max_new_tokens: int = 4096


def predict(
    model: CTInstruct, samples: Sequence[InstructionSample], options: GenerationOptions
) -> list[tuple[Prediction, list[np.ndarray]]]:
    """Answer samples as one batch; each comes with its masks (H, W, D) uint8 on the loaded grid of its volume."""
    device = model.vision.bridger[0].weight.device
    batch = InstructionCollator(model.tokenizer.pad_token_id)(samples).to(device)
    predictions = model.generate(batch, options.num_beams, options.max_new_tokens)
    answered = []
    for sample, prediction in zip(samples, predictions, strict=True):
        masks: list[np.ndarray] = []
        if prediction.mask_logits is not None:
            placement = sample.volumes[sample.mask_image].placement
            masks = list(restore_masks(prediction.mask_logits.float(), placement).cpu().numpy())
        answered.append((prediction, masks))
    return answered


def answer_manifest(
    model: CTInstruct,
    dataset: InstructionDataset,
    records: Iterable[InstructionRecord],
    writer: PredictionWriter,
    mask_folder: Path,
    options: GenerationOptions,
    batch_size: int = 1,
) -> Iterator[str]:
    """Answer and score records, writing each as soon as it is there; yields the ids that are done.

    Records that ``writer`` has from an earlier run are passed over.  A sample that cannot be read or answered is
    recorded with its reason, and the run goes on.
    """
    waiting = [record for record in records if record.id not in writer.done]
    for start in range(0, len(waiting), batch_size):
        samples: list[tuple[InstructionRecord, InstructionSample]] = []
        for record in waiting[start : start + batch_size]:
            try:
                samples.append((record, dataset.sample(record)))
            except InputError as error:
                writer.write(_failed(record, error))
                yield record.id
        if not samples:
            continue
        for (record, sample), answer in zip(samples, _predict_each(model, samples, options), strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                writer.write(_result(record, sample, *answer, mask_folder))
            except (RuntimeError, ValueError) as error:  # InputError is a ValueError
                writer.write(_failed(record, error))
            yield record.id


def _predict_each(
    model: CTInstruct, samples: Sequence[tuple[InstructionRecord, InstructionSample]], options: GenerationOptions
) -> list[tuple[Prediction, list[np.ndarray]] | Exception]:
    """Answers of a batch; where the batch fails, each sample by itself, so that one does not spoil the others."""
    try:
        return list(predict(model, [sample for _, sample in samples], options))
    except (RuntimeError, ValueError) as error:
        if len(samples) == 1:
            return [error]
    return [answer for sample in samples for answer in _predict_each(model, [sample], options)]


def _described(record: InstructionRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "patient_id": record.patient_id,
        "task": record.task,
        "question": record.text,
        "image_path": record.image_path,
        "answer": record.answer,
        "labels": record.labels,
        "label_set": record.label_set,
        "targets": record.targets,
        "choices": record.choices,
    }


def _failed(record: InstructionRecord, error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split()) or type(error).__name__
    return {**_described(record), "prediction": "", "error": reason}


def _result(
    record: InstructionRecord,
    sample: InstructionSample,
    prediction: Prediction,
    masks: Sequence[np.ndarray],
    mask_folder: Path,
) -> dict[str, Any]:
    result = {
        **_described(record),
        "prediction": prediction.text,
        "probabilities": prediction.confidences,
        "segmentation": [],
        "error": None,
    }
    if record.labels:
        geometry = sample.geometries[sample.mask_image]
        whole = VolumeGeometry.of_source(
            geometry.source, geometry.source_shape, np.asarray(geometry.source_affine), AS_STORED
        )
        for number, label in enumerate(record.labels):
            truth = _truth(record, number, whole)
            entry: dict[str, Any] = {
                "label": label,
                "mask_path": None,
                "truth_path": _truth_path(record, number),
                "truth_values": None if isinstance(record.mask_path, list) else record.mask_values[label],
            }
            if number < len(masks):
                path = mask_folder / f"{_file_name(record.id)}_{_file_name(label)}.nii.gz"
                save_mask(masks[number], geometry, path)
                entry["mask_path"] = str(path)
                entry |= segmentation_scores(geometry.to_source(masks[number]), truth, whole.spacing)
            else:  # it was asked for and not given
                entry |= missing_mask_scores(truth, whole.spacing)
            result["segmentation"].append(entry)
    return result


def _truth(record: InstructionRecord, number: int, whole: VolumeGeometry) -> np.ndarray:
    """The k-th true mask on the source grid."""
    if isinstance(record.mask_path, list):
        return read_mask(record.mask_path[number], whole)[0]
    return read_mask(record.mask_path, whole, [record.mask_values[record.labels[number]]])[0]


def _truth_path(record: InstructionRecord, number: int) -> str:
    return record.mask_path[number] if isinstance(record.mask_path, list) else record.mask_path


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
