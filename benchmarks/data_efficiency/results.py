"""What the runs found: their files, and the points of the curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.data_efficiency.scoring import Cases
from benchmarks.encoder_runs import write_json
from datasets.errors import InputError
from evaluation.metrics.bootstrap import Estimate, bootstrap_sums, ratio

SCORES = "scores.json"


@dataclass(frozen=True)
class Result:
    """A run that is done.  start: its title.  cases: Dice by patient and organ."""

    encoder: str
    start: str
    patients: int
    seed: int
    cases: Cases

    @property
    def dice(self) -> float:
        """Mean over organs of the organs' means over patients."""
        by_organ: dict[str, list[float]] = {}
        for organs in self.cases.values():
            for organ, value in organs.items():
                by_organ.setdefault(organ, []).append(value)
        return fmean(fmean(values) for values in by_organ.values())

    def to_dict(self) -> dict[str, Any]:
        """As in scores.json."""
        return {**vars(self), "dice": round(self.dice, 4)}


def read_results(folder: Path) -> list[Result]:
    """All runs of a folder that are done; raises InputError for a damaged file."""
    found = []
    for path in sorted(folder.rglob(SCORES)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append(Result(**{name: content[name] for name in Result.__dataclass_fields__}))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error!r}); delete it, and the run is scored again") from error
    return found


def keep_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write what all runs of a folder have in common; raises InputError where they were begun with other values."""
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if name not in before:
                raise InputError(f"{path}: the runs here are of before the {name} was noted; give another --out")
            if before[name] != value:
                raise InputError(
                    f"{path}: the runs here were begun with {name} {before[name]}, not {value}; give another --out"
                )
    write_json(path, settings)


def mean_dice(results: Sequence[Result]) -> Estimate:
    """Mean over organs, patients and seeds, with its 95 % interval over patients (all seeds of one together)."""
    return _mean(
        (patient, organ, value)
        for result in results
        for patient, organs in result.cases.items()
        for organ, value in organs.items()
    )


def mean_gain(results: Sequence[Result], base: Sequence[Result]) -> Estimate | None:
    """Mean difference to the runs of ``base`` with the same seed, paired by patient; None where there is no pair."""
    of_seed = {result.seed: result.cases for result in base}
    rows = [
        (patient, organ, value - of_seed[result.seed][patient][organ])
        for result in results
        if result.seed in of_seed
        for patient, organs in result.cases.items()
        for organ, value in organs.items()
    ]
    return _mean(rows) if rows else None


def _mean(rows: Iterable[tuple[str, str, float]]) -> Estimate:
    """Of patient, organ and value: the mean over organs of the organs' means."""
    patients, organs, values = zip(*rows, strict=True)
    distinct = list(dict.fromkeys(organs))
    member = np.array([[organ == name for name in distinct] for organ in organs], dtype=float)
    columns = np.concatenate([np.array(values)[:, None] * member, member], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        means = ratio(sums[:, : len(distinct)], sums[:, len(distinct) :])
        return np.asarray(np.nanmean(means, axis=1))  # a resample may lack an organ

    return bootstrap_sums(columns, statistic, patients)


def group(results: Sequence[Result], encoder: str, start: str, patients: int) -> list[Result]:
    """The seeds of a point of a curve."""
    return [each for each in results if (each.encoder, each.start, each.patients) == (encoder, start, patients)]
