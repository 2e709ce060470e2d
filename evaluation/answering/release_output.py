"""Answers as a list a task, as the published evaluator keeps them: ``test_out/<name>/<task>.json``.

An entry has ``image_path`` (a list), ``question``, ``answer`` (the truth) and ``prediction``; a diagnosis also
``targets`` (0, 1 or null) and ``probabilities`` (null where the answer gave none), both in the order of the label set's
heads; a segmentation also ``labels`` and ``dice``, by the published definition (null without a ``<SEG>``); a sample
that failed also ``error``.  Order is the manifest's.  The published evaluator's own field names are not known: these
are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.vocabulary import diseases_of
from evaluation.metrics.release_protocol import DICE
from evaluation.predictions import write_json

FOLDER = "test_out"


def release_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of predictions.json in the published evaluator's form."""
    entry = {name: record.get(name) for name in ("image_path", "question", "answer", "prediction")}
    label_set = record.get("label_set")
    if record["task"] == "diagnosis" and label_set:
        for name in ("targets", "probabilities"):
            values = record.get(name) or {}
            entry[name] = [values.get(disease) for disease in diseases_of(label_set)]
    if record["task"] == "segmentation":
        entry |= {"labels": record.get("labels"), "dice": record.get(DICE)}
    return entry if record.get("error") is None else {**entry, "error": record["error"]}


def write_release_output(output: Path, name: str, task: str, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``output/test_out/name/task.json``; gives its path."""
    return write_json([release_entry(record) for record in records], output / FOLDER / name / f"{task}.json")
