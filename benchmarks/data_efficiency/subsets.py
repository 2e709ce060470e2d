"""Nested sets of training patients, drawn by seed, as manifests of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.prepare.sets.open_kbp import TASK
from datasets.pretraining_manifest import SegmentationRecord


def patient_order(records: Sequence[SegmentationRecord], seed: int) -> list[str]:
    """The patients in an order that depends on their names and the seed alone; a subset is the first of them.

    So a smaller subset of a seed lies in every larger one of the same seed.
    """
    names = sorted({record.patient_id for record in records})
    return [names[index] for index in np.random.default_rng(seed).permutation(len(names))]


def check_counts(records: Sequence[SegmentationRecord], counts: Sequence[int]) -> None:
    """Raises InputError for a number of patients that the training manifest has not."""
    most = len({record.patient_id for record in records})
    for count in counts:
        if not 1 <= count <= most:
            raise InputError(f"--patients {count}: the training manifest has {most}; give a number from 1 to {most}")


def write_subset(records: Sequence[SegmentationRecord], count: int, seed: int, folder: Path) -> None:
    """Write the training manifest of the first ``count`` patients of a seed into ``folder``, with absolute paths."""
    check_counts(records, [count])
    chosen = set(patient_order(records, seed)[:count])
    rows = [
        record.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"names"})
        for record in records
        if record.patient_id in chosen
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{TASK}_train.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
