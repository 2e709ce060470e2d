"""A manifest answered and scored, record by record; masks are written on the source grid."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.errors import InputError, OneLineError, WriteError
from datasets.instruction import InstructionDataset, InstructionSample
from datasets.manifest import InstructionRecord
from datasets.record_masks import answer_masks, read_source
from datasets.volume.geometry import AS_STORED, VolumeGeometry
from datasets.volume.loading import save_mask
from evaluation.answering.controls import stretched
from evaluation.answering.mask_names import mask_name
from evaluation.metrics.release_protocol import DICE, dice_release_protocol
from evaluation.metrics.segmentation import missing_mask_scores, segmentation_scores
from evaluation.predictions import PredictionWriter
from models.answering.predicting import GenerationOptions, SampleAnswer, predict
from models.answering.recent_volumes import RecentEncodings
from models.ctinstruct import CTInstruct

log = logging.getLogger(__name__)
_MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG}


def answer_batches(
    model: CTInstruct,
    dataset: InstructionDataset,
    batches: Iterable[Sequence[InstructionRecord]],
    writer: PredictionWriter,
    mask_folder: Path,
    options: GenerationOptions,
    asked: Mapping[str, InstructionRecord] | None = None,
) -> Iterator[str]:
    """Answer and score records, writing each as soon as it is there; yields the ids that are done.

    A batch is answered as a whole though an earlier run may have written a part of it: only what is missing is written.
    A sample that cannot be read, answered or scored is recorded with its reason, and the run goes on.  Where the model
    knows what the volumes of its training are like, the log names those that are unlike them.

    Args:
        asked: by id, what is asked in place of a record's own question (see `evaluation.answering.controls`).  Its
            answer is scored against the record all the same, its masks stretched onto the grid of the record's volume.
    """
    asked = asked or {}

    def write(record: InstructionRecord, result: dict[str, Any]) -> None:
        shown = asked.get(record.id)
        writer.write(result if shown is None else {**result, "image_shown": shown.image_path})

    encodings = RecentEncodings(model)
    told: set[str] = set()
    for batch in batches:
        samples: list[tuple[InstructionRecord, InstructionSample]] = []
        for record in batch:
            try:
                samples.append((record, dataset.sample(asked.get(record.id, record))))
            except Exception as error:
                stop_if_machine_fails(error)
                if record.id not in writer.done:
                    write(record, _failed(record, error))
                    yield record.id
        for (record, sample), answer in zip(samples, _predict_each(model, samples, options, encodings), strict=True):
            if record.id in writer.done:
                continue
            try:
                if isinstance(answer, Exception):
                    raise answer
                geometry: VolumeGeometry | None = None
                if record.labels and record.id in asked:
                    geometry = dataset.loader.volume(record.image_path[record.mask_image], record.hu_offset)[1]
                    answer = _stretched(answer, geometry.shape)
                elif record.labels:
                    geometry = sample.geometries[sample.mask_image]
                result = _result(record, geometry, answer, mask_folder)
                if record.labels:
                    result[DICE] = None if record.id in asked else _release_dice(record, sample, dataset, answer)
            except Exception as error:
                stop_if_machine_fails(error)
                result = _failed(record, error)
            write(record, result)
            yield record.id
        if not asked:  # under a control a volume stands in for another, and nothing is said of it
            for key in [key for key in encodings.doubts if key not in told]:
                told.add(key)
                for doubt in encodings.doubts[key]:
                    log.warning("%s: %s", key, doubt)


def _predict_each(
    model: CTInstruct,
    samples: Sequence[tuple[InstructionRecord, InstructionSample]],
    options: GenerationOptions,
    encodings: RecentEncodings,
) -> list[SampleAnswer | Exception]:
    """Answers of a batch; where the batch fails, each sample by itself, so that one does not spoil the others."""
    if not samples:
        return []
    try:
        return list(predict(model, [sample for _, sample in samples], options, encodings))
    except Exception as error:
        stop_if_machine_fails(error)
        if len(samples) == 1:
            return [error]
    return [answer for sample in samples for answer in _predict_each(model, [sample], options, encodings)]


def stop_if_machine_fails(error: Exception) -> None:
    """A fault of the device, or a full disk, is not a sample's: every later one would fail as well, so the run ends."""
    if isinstance(error, (torch.AcceleratorError, WriteError)):
        raise error
    if isinstance(error, OSError) and error.errno in _MACHINE_FAULTS:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(
            f"{where}{error.strerror}; mend that and start again: what is answered is kept, the rest is answered then"
        ) from error


def _stretched(answer: SampleAnswer, shape: Sequence[int]) -> SampleAnswer:
    """The answer with its masks on another volume's loaded grid."""
    return replace(answer, masks=[stretched(mask, shape) for mask in answer.masks])


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
        **({"hu_offset": record.hu_offset} if record.hu_offset else {}),
    }


def _failed(record: InstructionRecord, error: Exception) -> dict[str, Any]:
    return {**_described(record), "prediction": "", "error": failure(error)}


def failure(error: Exception) -> str:
    """Why a sample failed, in one line."""
    reason = " ".join(str(error).split())
    if not isinstance(error, OneLineError):  # its message was written to be read alone, another's was not
        reason = f"{type(error).__name__}: {reason}".rstrip(": ")
    return reason


def _result(
    record: InstructionRecord,
    geometry: VolumeGeometry | None,
    answer: SampleAnswer,
    mask_folder: Path,
) -> dict[str, Any]:
    """Answer and scores; `geometry`, of the volume that the record's masks belong to, is None where it has none."""
    result = {
        **_described(record),
        "prediction": answer.prediction.text,
        "probabilities": answer.prediction.confidences,
        "segmentation": [],
        "error": None,
    }
    if geometry is not None:
        whole = VolumeGeometry.of_source(
            geometry.source, geometry.source_shape, np.asarray(geometry.source_affine), AS_STORED, geometry.axes_from
        )
        for number, label in enumerate(record.labels):
            source = record.mask_source(number)
            truth = read_source(source, whole)
            entry: dict[str, Any] = {
                "label": label,
                "mask_path": None,
                "truth_path": source.paths[0] if len(source.paths) == 1 else source.paths,
                "truth_values": source.values,
            }
            if source.by_file is not None:
                entry["truth_values_by_file"] = source.by_file
            if source.boxes is not None:
                entry["truth_boxes"] = source.boxes
            if number < len(answer.masks):
                path = mask_folder / mask_name(record.id, label, record.labels[:number].count(label))
                save_mask(answer.masks[number], geometry, path)
                entry["mask_path"] = str(path)
                mask = geometry.to_source(answer.masks[number])
                entry |= segmentation_scores(mask, truth, whole.spacing)
            else:  # it was asked for and not given
                entry |= missing_mask_scores(truth, whole.spacing)
            result["segmentation"].append(entry)
    return result


def _release_dice(
    record: InstructionRecord, sample: InstructionSample, dataset: InstructionDataset, answer: SampleAnswer
) -> float | None:
    """Dice by the published definition: the answer's first mask against all labels together, on the padded grid.

    None where the answer has no mask.  (Under a control there is none either: the padded grid is another volume's.)
    """
    logits = answer.prediction.mask_logits
    if logits is None or not record.labels:
        return None
    placement, geometry = sample.volumes[sample.mask_image].placement, sample.geometries[sample.mask_image]
    truth = answer_masks(record, dataset.loader, placement, geometry)
    return dice_release_protocol(logits[0], truth.amax(0))
