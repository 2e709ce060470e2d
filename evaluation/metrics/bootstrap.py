"""95 % bootstrap intervals by patient.

Several questions and scans of one patient are not independent, so whole patients are drawn with replacement. The
interval is the percentile interval (Efron and Tibshirani 1993, chapter 13), from the 2.5th to the 97.5th. All
resamples are drawn as a matrix of counts, so a figure that is a function of sums costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

# {"value", "low", "high": float | None, "n": samples, "patients": int}, and "reason" where there is no value
Estimate: TypeAlias = dict[str, Any]

RESAMPLES = 1000
CHUNK_ELEMENTS = 4_000_000  # resamples x columns held at once, about 32 MB


class PatientBootstrap:
    """Resamples of one set of samples; figures computed from the same instance are paired.

    Args:
        patients: one key a sample. None as a whole, or as an entry, makes that sample a patient of its own.
        resamples: how many sets of patients are drawn.
        seed: the same seed, patients and order give the same intervals.
    """

    def __init__(self, patients: Sequence[Hashable | None], resamples: int = RESAMPLES, seed: int = 0) -> None:
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {resamples}")
        keys = [("sample", index) if key is None else ("patient", key) for index, key in enumerate(patients)]
        number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        self.patient_of_sample = np.array([number[key] for key in keys], dtype=np.int64)
        self.samples = len(keys)
        self.patients = len(number)
        self.resamples = resamples
        self.seed = seed

    def draws(self, columns: int) -> Iterator[np.ndarray]:
        """Chunks (m, patients) of how often each patient is drawn; together `resamples` rows, the same at every chunk
        size."""
        generator = np.random.default_rng(self.seed)
        chunk = max(1, CHUNK_ELEMENTS // max(columns, 1))
        chances = np.full(self.patients, 1 / self.patients)
        for start in range(0, self.resamples, chunk):
            yield generator.multinomial(self.patients, chances, size=min(chunk, self.resamples - start)).astype(
                np.float64
            )

    def sums(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column sums (k,) of `columns` (n, k) over the samples, and (resamples, k) over each resample."""
        by_patient = np.zeros((self.patients, columns.shape[1]))
        np.add.at(by_patient, self.patient_of_sample, columns)
        if self.patients == 0:
            return np.zeros(columns.shape[1]), np.zeros((self.resamples, columns.shape[1]))
        return by_patient.sum(0), np.concatenate([draw @ by_patient for draw in self.draws(self.patients)])

    def weighted(self, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """For figures that are no function of sums (ranks): `statistic` maps sample weights (m, n) to (m,) or (m, k).

        Returns the figure with all weights 1, and the (resamples, ...) resampled figures.
        """
        point = statistic(np.ones((1, self.samples)))[0]
        if self.patients == 0:
            return point, np.full((self.resamples, *np.shape(point)), np.nan)
        drawn = [statistic(draw[:, self.patient_of_sample]) for draw in self.draws(max(self.samples, self.patients))]
        return point, np.concatenate(drawn)


def make_estimate(value: float, resampled: np.ndarray, n: int, patients: int, reason: str = "undefined") -> Estimate:
    """A figure with its interval as a JSON-able dictionary.

    `resampled` (resamples,) may hold NaN where a resample leaves the figure undefined (an AUC of one class): those
    are left out. One patient has no spread to resample, so its interval is None rather than a width of zero that
    looks like certainty.
    """
    estimate: Estimate = {"value": None, "low": None, "high": None, "n": int(n), "patients": int(patients)}
    if not np.isfinite(value):
        return estimate | {"reason": reason}
    estimate["value"] = float(value)
    defined = resampled[np.isfinite(resampled)]
    if patients > 1 and defined.size:
        estimate["low"], estimate["high"] = (float(bound) for bound in np.percentile(defined, [2.5, 97.5]))
    return estimate


def not_computed(reason: str, n: int = 0) -> Estimate:
    """The estimate of a figure that was not computed: it has no number, and says why."""
    return {"value": None, "low": None, "high": None, "n": n, "patients": 0, "reason": reason}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(np.broadcast(numerator, denominator).shape, np.nan), where=denominator != 0
    )


def bootstrap_sums(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    patients: Sequence[Hashable | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    reason: str = "undefined",
) -> Estimate:
    """Estimate of a figure of column sums: `statistic` maps sums (m, k) of `columns` (n, k) to (m,); NaN means
    undefined."""
    columns = np.asarray(columns, dtype=np.float64)
    bootstrap = PatientBootstrap(patients if patients is not None else [None] * len(columns), resamples, seed)
    point, resampled = bootstrap.sums(columns)
    return make_estimate(statistic(point[None])[0], statistic(resampled), len(columns), bootstrap.patients, reason)


def bootstrap_mean(
    values: Sequence[float | None],
    patients: Sequence[Hashable | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    reason: str = "no sample has this figure",
) -> Estimate:
    """Mean of `values` over samples; None and NaN entries are left out of the mean and of its `n`."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(numbers))
    columns = np.stack([numbers[kept], np.ones(len(kept))], axis=1)
    owners = [patients[index] for index in kept.tolist()] if patients is not None else None
    return bootstrap_sums(columns, lambda sums: ratio(sums[:, 0], sums[:, 1]), owners, resamples, seed, reason)
