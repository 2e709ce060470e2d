"""Multi-label diagnosis: AUC, average precision, F1, accuracy, precision and recall, per disease and macro.

Thresholds come from a validation split (`fit_thresholds`) or are 0.5; the published evaluator's, which are the best on
the test set itself, are in `evaluation.metrics.release_protocol`. A disease counts as predicted where probability >=
threshold.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from datasets.errors import InputError
from evaluation.metrics.bootstrap import RESAMPLES, PatientBootstrap, make_estimate, ratio

RANK_METRICS = ("auc", "average_precision")
THRESHOLD_METRICS = ("f1", "accuracy", "precision", "recall")
METRICS = RANK_METRICS + THRESHOLD_METRICS
DEFAULT_THRESHOLD = 0.5


def _score_groups(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of falling score, and the first index of each group of equal scores in that order."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.zeros(0, int)
    return order, starts


def rank_metrics(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC and average precision under many sets of sample weights at once.

    AUC is the chance that a positive scores above a negative, ties counting one half (Mann-Whitney). Average
    precision is sum over distinct scores, falling, of (recall_i - recall_{i-1}) * precision_i: no interpolation.

    Args:
        targets: (n,) of 0 and 1.
        scores: (n,).
        weights: (m, n), not negative.
    Returns:
        (m, 2); NaN where a class has no weight (average precision needs only positives).
    """
    if len(scores) == 0:
        return np.full((len(weights), 2), np.nan)
    order, starts = _score_groups(scores)
    sorted_weights = weights[:, order]
    is_positive = targets[order] > 0
    positive = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~is_positive, starts, axis=1)
    positives, negatives = positive.sum(1), negative.sum(1)
    true_positive, false_positive = positive.cumsum(1), negative.cumsum(1)
    # Each positive beats the negatives that come later in falling order, and half of those it ties with.
    wins = (positive * (negatives[:, None] - false_positive + 0.5 * negative)).sum(1)
    precision = np.nan_to_num(ratio(true_positive, true_positive + false_positive))
    return np.stack([ratio(wins, positives * negatives), ratio((positive * precision).sum(1), positives)], axis=1)


def threshold_metrics(true_positive: Any, false_positive: Any, false_negative: Any, true_negative: Any) -> np.ndarray:
    """F1, accuracy, precision and recall of counts of one shape, stacked on a new last axis.

    With positives present but none predicted, precision is 0 (a model that never says the disease earns nothing);
    without positives recall is NaN, and so are F1 and precision unless something was predicted.
    """
    tp, fp, fn, tn = (
        np.asarray(count, dtype=np.float64) for count in (true_positive, false_positive, false_negative, true_negative)
    )
    f1 = ratio(2 * tp, 2 * tp + fp + fn)
    accuracy = ratio(tp + tn, tp + fp + fn + tn)
    precision = ratio(tp, tp + fp)
    precision = np.where((tp + fp == 0) & (fn > 0), 0.0, precision)
    return np.stack([f1, accuracy, precision, ratio(tp, tp + fn)], axis=-1)


def best_threshold(targets: np.ndarray, scores: np.ndarray) -> float:
    """The score that gives the highest F1 when everything at or above it is called positive; the highest such score
    on a tie.

    Falls back to 0.5 where no positive is known, because then no threshold is better than another.
    """
    if len(scores) == 0 or not np.any(targets > 0):
        return DEFAULT_THRESHOLD
    order, starts = _score_groups(scores)
    ends = np.concatenate([starts[1:], [len(order)]])
    true_positive = np.cumsum(targets[order] > 0)[ends - 1]
    f1 = 2 * true_positive / (ends + np.sum(targets > 0))
    return float(scores[order][starts[np.argmax(f1)]])


def _as_arrays(targets: Any, probabilities: Any, diseases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    target = np.array([[np.nan if value is None else value for value in row] for row in targets], dtype=np.float64)
    score = np.array([list(row) for row in probabilities], dtype=np.float64)
    target, score = (array.reshape(-1, len(diseases)) if array.size == 0 else array for array in (target, score))
    if target.shape != score.shape or target.shape[1] != len(diseases):
        raise InputError(
            f"diagnosis: targets {target.shape} and probabilities {score.shape} must both be (samples, {len(diseases)})"
        )
    if not np.isin(target[~np.isnan(target)], (0.0, 1.0)).all():
        raise InputError("diagnosis: a target must be 0, 1, or null where it is unknown")
    if not np.isfinite(score).all():
        row, column = np.argwhere(~np.isfinite(score))[0]
        raise InputError(f"diagnosis: probability of '{diseases[column]}' in sample {row} is not a finite number")
    return target, score


def fit_thresholds(targets: Any, probabilities: Any, diseases: Sequence[str]) -> dict[str, float]:
    """Threshold of the best F1 for each disease, to be fitted on a *validation* split; unknown targets are ignored.

    Args:
        targets: (n, d) of 0, 1, or None/NaN.
        probabilities: (n, d).
    """
    target, score = _as_arrays(targets, probabilities, diseases)
    known = ~np.isnan(target)
    return {
        disease: best_threshold(target[known[:, column], column], score[known[:, column], column])
        for column, disease in enumerate(diseases)
    }


def _counts(target: np.ndarray, score: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """(n, d, 4) indicators of true positive, false positive, false negative, true negative; all 0 where the target is
    unknown."""
    predicted = score >= threshold
    return np.stack(
        [predicted & (target == 1), predicted & (target == 0), ~predicted & (target == 1), ~predicted & (target == 0)],
        axis=-1,
    ).astype(np.float64)


def diagnosis_metrics(
    targets: Any,
    probabilities: Any,
    diseases: Sequence[str],
    patients: Sequence[Hashable | None] | None = None,
    thresholds: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one label set.

    Args:
        targets: (n, d) of 0, 1, or None/NaN where unknown; an unknown target is left out for that disease only.
        probabilities: (n, d) in [0, 1].
        diseases: the d names, in column order.
        patients: n keys for the bootstrap.
        thresholds: {disease: threshold} fitted on validation; without it every threshold is 0.5.
    Returns:
        "diseases": {name: {metric: Estimate, "threshold", "positives", "negatives", "unknown"}};
        "macro": {metric: Estimate}, the mean over the diseases for which the metric is defined (their number is its
        "diseases"); "threshold_source": "validation" or "0.5"; "undefined_auc": [names];
        "notes": [sentences].
    Raises:
        InputError: shapes disagree, a target is not 0/1/null, a probability is not finite, or a disease has no
            threshold.
    """
    target, score = _as_arrays(targets, probabilities, diseases)
    if thresholds is not None and (absent := [name for name in diseases if name not in thresholds]):
        raise InputError(
            f"diagnosis: no threshold for {', '.join(absent)}; "
            "fit thresholds on a validation split of the same label set"
        )
    n, d = target.shape
    known = ~np.isnan(target)
    fixed = np.array(
        [thresholds[name] if thresholds is not None else DEFAULT_THRESHOLD for name in diseases], dtype=np.float64
    )
    bootstrap = PatientBootstrap(patients if patients is not None else [None] * n, resamples, seed)

    def ranks(weights: np.ndarray) -> np.ndarray:
        by_disease = [
            rank_metrics(target[known[:, c], c], score[known[:, c], c], weights[:, known[:, c]]) for c in range(d)
        ]
        return np.stack(by_disease, axis=1)

    rank_point, rank_drawn = bootstrap.weighted(ranks)
    count_point, count_drawn = bootstrap.sums(_counts(target, score, fixed).reshape(n, d * 4))
    at_point = threshold_metrics(*np.moveaxis(count_point.reshape(d, 4), -1, 0))
    at_drawn = threshold_metrics(*np.moveaxis(count_drawn.reshape(-1, d, 4), -1, 0))
    point = np.concatenate([rank_point, at_point], axis=-1)  # (d, metrics)
    drawn = np.concatenate([rank_drawn, at_drawn], axis=-1)  # (resamples, d, metrics)

    per_disease: dict[str, dict[str, Any]] = {}
    for c, disease in enumerate(diseases):
        positives, negatives = int((target[:, c] == 1).sum()), int((target[:, c] == 0).sum())
        number_known = positives + negatives
        owners = len(np.unique(bootstrap.patient_of_sample[known[:, c]]))
        reason = f"{positives} positive and {negatives} negative samples"
        estimates = {
            metric: make_estimate(point[c, i], drawn[:, c, i], number_known, owners, reason)
            for i, metric in enumerate(METRICS)
        }
        per_disease[disease] = estimates | {
            "threshold": float(fixed[c]),
            "positives": positives,
            "negatives": negatives,
            "unknown": n - number_known,
        }
    macro = {}
    for i, metric in enumerate(METRICS):
        defined = np.flatnonzero(np.isfinite(point[:, i]))
        if len(defined):
            # A resample may leave a rare disease undefined: its mean is over the diseases that it does define.
            over = drawn[:, defined, i]
            spread = ratio(np.nansum(over, axis=1), np.isfinite(over).sum(1).astype(np.float64))
            macro[metric] = make_estimate(point[defined, i].mean(), spread, n, bootstrap.patients)
        else:
            macro[metric] = make_estimate(np.nan, np.zeros(0), n, bootstrap.patients, "undefined for every disease")
        macro[metric]["diseases"] = len(defined)
    undefined = [name for name in diseases if per_disease[name]["auc"]["value"] is None]
    source = "validation" if thresholds is not None else str(DEFAULT_THRESHOLD)
    notes = [
        f"Thresholds: {'fixed on the validation split' if thresholds is not None else '0.5 for every disease'}.",
        "Macro is the mean over the diseases for which the figure is defined.",
    ]
    if undefined:
        notes.append(
            f"AUC is undefined, and left out of macro, where only one class is present: {', '.join(undefined)}."
        )
    return {
        "diseases": per_disease,
        "macro": macro,
        "threshold_source": source,
        "undefined_auc": undefined,
        "notes": notes,
    }
