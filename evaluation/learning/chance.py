"""The chance level beside a model's figures: what an answer scores when nobody looked at the volume.

For a multiple-choice question this is one over the number of options.  The answer to an open question, a report or a
mask is partly right for every patient, because of the question's wording, of what most reports say, of where an organ
usually lies.  There the true answer of another patient is scored in place of a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np

from datasets.volume.loading import load_volume, read_label_map
from evaluation.answering.controls import stretched
from evaluation.metrics.clinical_efficacy import clinical_efficacy
from evaluation.metrics.report_labels import label_report
from evaluation.metrics.segmentation import dice
from evaluation.metrics.text import token_f1
from evaluation.report.tables import mean_of_known

Record = Mapping[str, Any]
Volume = tuple[str, float]  # a path, and the HU that are added to what is read there


def one_option(records: Sequence[Record]) -> float | None:
    """Accuracy of a guess among each question's options; None without any."""
    return mean_of_known(1 / len(record["choices"]) for record in records if record.get("choices"))


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
    return mean_of_known(scores)


def reports_of_others(records: Sequence[Record]) -> float | None:
    """Clinical micro F1 of each report as the prediction for the report before it; None for fewer than two."""
    found = [label_report(record["answer"]) for record in records]
    if len(found) < 2:
        return None
    return clinical_efficacy([*found[1:], found[0]], found, resamples=1)["metrics"]["micro_f1"]["value"]


def masks_of_others(records: Sequence[Record], labels: Collection[str]) -> float | None:
    """Dice of the next volume's true masks of ``labels``, stretched onto a volume (`controls.stretched`).

    The mean over structures of their means, of multi-label files alone; None where no truth is known.

    Raises:
        InputError: a volume or a mask is gone or unreadable.
    """
    asked = asked_masks(records, labels)
    files: dict[Volume, set[str]] = {}
    for volume, entry in asked:
        files.setdefault(volume, set()).add(entry["truth_path"])
    # one file has all of the labels
    truths = {volume: min(paths) for volume, paths in files.items() if len(paths) == 1}
    asked = [(volume, entry) for volume, entry in asked if volume in truths]
    volumes = list(truths)
    following = dict(zip(volumes, [*volumes[1:], *volumes[:1]], strict=True))

    def mask_of_next(volume: Volume, entry: Record) -> np.ndarray | None:
        other = following[volume]
        return None if other == volume else np.isin(label_map(other, truths[other]), entry["truth_values"])

    return stretched_dice(asked, mask_of_next)


def asked_masks(records: Sequence[Record], labels: Collection[str]) -> list[tuple[Volume, Record]]:
    """The volume and the entry of each mask of ``labels`` whose truth is known, of multi-label files alone."""
    return [
        ((record["image_path"][record.get("mask_image") or 0], record.get("hu_offset") or 0.0), entry)
        for record in records
        for entry in record["segmentation"]
        if entry["label"] in labels and entry.get("truth_values") is not None and isinstance(entry["truth_path"], str)
    ]


def stretched_dice(
    asked: Sequence[tuple[Volume, Record]], answer: Callable[[Volume, Record], np.ndarray | None]
) -> float | None:
    """Dice of answer(volume, entry), a mask on any grid, stretched onto the volume; None is not counted.

    The mean over structures of their means; None without any.
    """
    scores: dict[str, list[float]] = {}
    for volume, entry in asked:
        if (mask := answer(volume, entry)) is not None:
            truth = np.isin(label_map(volume, entry["truth_path"]), entry["truth_values"])
            scores.setdefault(entry["label"], []).append(dice(stretched(mask, truth.shape), truth))
    return mean_of_known(fmean(values) for values in scores.values())


@lru_cache(maxsize=2)  # questions about a volume follow each other, and then come those about the next
def label_map(volume: Volume, labels: str) -> np.ndarray:
    """On the volume's grid in RAS, cropped to the body: as it is loaded for a model without a field of view."""
    path, hu_offset = volume
    return read_label_map(labels, load_volume(path, hu_offset=hu_offset)[1])
