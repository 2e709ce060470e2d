"""What answers score that are given without looking: the chance beside a model's figures.

A guess among options has its chance by their number.  Of an open question, a report or a mask a part is right for
everyone: by the question's wording, by what most reports say, by where an organ usually lies.  There the truth of
another patient stands for the answer of somebody who did not look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np

from datasets.volume import load_volume, read_mask
from evaluation.clinical_efficacy import clinical_efficacy
from evaluation.controls import stretched
from evaluation.report_labels import label_report
from evaluation.segmentation import dice
from evaluation.text import token_f1

Record = Mapping[str, Any]


def one_option(records: Sequence[Record]) -> float | None:
    """Accuracy of a guess among each question's options; None without any."""
    return _mean([1 / len(record["choices"]) for record in records if record.get("choices")])


def answers_of_others(records: Sequence[Record]) -> float | None:
    """Token F1 of other patients' answers to a question in the same words; None where no two were asked alike."""
    scores = []
    for record in records:
        others = [
            token_f1(other["answer"], record["answer"])
            for other in records
            if other["question"] == record["question"] and other["patient_id"] != record["patient_id"]
        ]
        scores += [fmean(others)] if others else []
    return _mean(scores)


def reports_of_others(records: Sequence[Record]) -> float | None:
    """Clinical micro F1 of each report as the prediction for the report before it; None for fewer than two."""
    found = [label_report(record["answer"]) for record in records]
    if len(found) < 2:
        return None
    return clinical_efficacy([*found[1:], found[0]], found, resamples=1)["metrics"]["micro_f1"]["value"]


def masks_of_others(records: Sequence[Record], labels: Collection[str]) -> float | None:
    """Dice of the next volume's true masks of ``labels``, stretched onto a volume as `controls.stretched` does.

    The mean over structures of their means, of multi-label files alone; None where no truth is known.

    Raises:
        InputError: a volume or a mask is gone or unreadable.
    """
    truths: dict[str, str] = {}  # by volume, one file with all of the labels
    for record in records:
        for entry in record["segmentation"]:
            if entry["label"] in labels and entry.get("truth_values") is not None:
                truths.setdefault(record["image_path"][record.get("mask_image") or 0], entry["truth_path"])
    volumes = list(truths)
    following = dict(zip(volumes, [*volumes[1:], *volumes[:1]], strict=True))
    scores: dict[str, list[float]] = {}
    for record in records:
        image = record["image_path"][record.get("mask_image") or 0]
        for entry in record["segmentation"]:
            if entry["label"] in labels and entry.get("truth_values") is not None and following[image] != image:
                truth = _mask(image, truths[image], entry["truth_values"])
                other = _mask(following[image], truths[following[image]], entry["truth_values"])
                scores.setdefault(entry["label"], []).append(dice(stretched(other, truth.shape), truth))
    return _mean([fmean(values) for values in scores.values()])


def _mask(image: str, labels: str, values: int | Sequence[int]) -> np.ndarray:
    return read_mask(labels, _geometry(image), [values])[0] > 0


@lru_cache(maxsize=4)
def _geometry(image: str) -> Any:
    """Of a volume as it is loaded for the model: in RAS, cropped to the body."""
    return load_volume(image)[1]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
