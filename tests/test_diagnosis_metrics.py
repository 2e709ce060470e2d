"""Diagnosis metrics against loops over pairs, scikit-learn, and cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from datasets.errors import InputError
from evaluation.metrics.diagnosis import (
    best_threshold,
    diagnosis_metrics,
    fit_thresholds,
    rank_metrics,
    threshold_metrics,
)


def auc_by_pairs(targets: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[targets == 1], scores[targets == 0]
    wins = sum((p > q) + 0.5 * (p == q) for p in positive for q in negative)
    return wins / (len(positive) * len(negative))


def average_precision_by_cutoffs(targets: np.ndarray, scores: np.ndarray) -> float:
    area, recall_before = 0.0, 0.0
    for cutoff in sorted(set(scores), reverse=True):
        chosen = scores >= cutoff
        recall = targets[chosen].sum() / targets.sum()
        area += (recall - recall_before) * targets[chosen].mean()
        recall_before = recall
    return area


def sample(seed: int, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 2, n)
    targets[:2] = [0, 1]
    scores = generator.random(n)
    return targets, (np.round(scores, 1) if ties else scores)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_and_average_precision_equal_loops_and_scikit_learn(seed: int, ties: bool) -> None:
    targets, scores = sample(seed, 60, ties)
    auc, precision = rank_metrics(targets, scores, np.ones((1, 60)))[0]
    assert auc == pytest.approx(auc_by_pairs(targets, scores)) == pytest.approx(sk.roc_auc_score(targets, scores))
    assert precision == pytest.approx(average_precision_by_cutoffs(targets, scores))
    assert precision == pytest.approx(sk.average_precision_score(targets, scores))


def test_weights_are_the_same_as_repeating_samples() -> None:
    targets, scores = sample(1, 30, True)
    weights = np.random.default_rng(2).integers(0, 4, (6, 30))
    values = rank_metrics(targets, scores, weights.astype(float))
    for row, weight in zip(values, weights, strict=True):
        repeated_targets, repeated_scores = np.repeat(targets, weight), np.repeat(scores, weight)
        assert row[0] == pytest.approx(auc_by_pairs(repeated_targets, repeated_scores))
        assert row[1] == pytest.approx(average_precision_by_cutoffs(repeated_targets, repeated_scores))


def test_perfect_inverted_and_constant_scores() -> None:
    targets = np.array([1, 1, 0, 0])
    ones = np.ones((1, 4))
    assert rank_metrics(targets, np.array([0.9, 0.8, 0.2, 0.1]), ones)[0, 0] == 1
    assert rank_metrics(targets, np.array([0.1, 0.2, 0.8, 0.9]), ones)[0, 0] == 0
    assert rank_metrics(targets, np.full(4, 0.3), ones)[0].tolist() == [0.5, 0.5]


def test_threshold_metrics_equal_scikit_learn_on_a_random_case() -> None:
    targets, scores = sample(7, 200, False)
    predicted = scores >= 0.4
    tp, fp = (predicted & (targets == 1)).sum(), (predicted & (targets == 0)).sum()
    fn, tn = (~predicted & (targets == 1)).sum(), (~predicted & (targets == 0)).sum()
    expected = [
        sk.f1_score(targets, predicted),
        sk.accuracy_score(targets, predicted),
        sk.precision_score(targets, predicted),
        sk.recall_score(targets, predicted),
    ]
    assert threshold_metrics(tp, fp, fn, tn).tolist() == pytest.approx(expected)


def test_threshold_metrics_where_a_denominator_is_zero() -> None:
    f1, accuracy, precision, recall = threshold_metrics(0, 0, 3, 7)  # never predicted: nothing earned
    assert (f1, accuracy, precision, recall) == (0, 0.7, 0, 0)
    f1, accuracy, precision, recall = threshold_metrics(0, 0, 0, 5)  # no positive exists: undefined, not 0 and not 1
    assert accuracy == 1 and np.isnan([f1, precision, recall]).all()


def test_best_threshold_equals_a_search_over_every_score() -> None:
    for seed in range(10):
        targets, scores = sample(seed, 40, seed % 2 == 0)
        by_search = max(sk.f1_score(targets, scores >= cut) for cut in set(scores))
        assert sk.f1_score(targets, scores >= best_threshold(targets, scores)) == pytest.approx(by_search)
    assert best_threshold(np.zeros(3), np.array([0.1, 0.9, 0.4])) == 0.5


def test_all_figures_of_a_label_set_with_unknown_targets() -> None:
    generator = np.random.default_rng(0)
    n, diseases = 80, ["nodule", "effusion"]
    targets = generator.integers(0, 2, (n, 2)).astype(float)
    probabilities = np.clip(0.3 * targets + 0.7 * generator.random((n, 2)), 0, 1)
    targets[::5, 1] = np.nan
    result = diagnosis_metrics(targets, probabilities, diseases, list(range(n)), resamples=200)
    known = ~np.isnan(targets[:, 1])
    truth, score = targets[known, 1], probabilities[known, 1]
    effusion = result["diseases"]["effusion"]
    assert effusion["unknown"] == 16 and effusion["auc"]["n"] == 64 and effusion["auc"]["patients"] == 64
    assert effusion["auc"]["value"] == pytest.approx(sk.roc_auc_score(truth, score))
    assert effusion["average_precision"]["value"] == pytest.approx(sk.average_precision_score(truth, score))
    assert effusion["f1"]["value"] == pytest.approx(sk.f1_score(truth, score >= 0.5))
    assert effusion["recall"]["value"] == pytest.approx(sk.recall_score(truth, score >= 0.5))
    assert effusion["auc"]["low"] < effusion["auc"]["value"] < effusion["auc"]["high"]
    nodule_auc = sk.roc_auc_score(targets[:, 0], probabilities[:, 0])
    assert result["macro"]["auc"]["value"] == pytest.approx((nodule_auc + effusion["auc"]["value"]) / 2)
    assert result["threshold_source"] == "0.5"


def test_auc_interval_equals_a_plain_bootstrap_of_patients() -> None:
    targets, scores = sample(3, 40, False)
    patients = [index // 2 for index in range(40)]
    result = diagnosis_metrics(targets[:, None], scores[:, None], ["x"], patients, resamples=300, seed=2)
    drawn = []
    for counts in np.random.default_rng(2).multinomial(20, [1 / 20] * 20, size=300):
        rows = np.repeat(np.arange(40), counts[np.array(patients)])
        drawn.append(auc_by_pairs(targets[rows], scores[rows]))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    assert result["diseases"]["x"]["auc"]["low"] == pytest.approx(low)
    assert result["diseases"]["x"]["auc"]["high"] == pytest.approx(high)
    assert result["macro"]["auc"]["low"] == pytest.approx(low)


def test_a_threshold_of_validation_is_held_on_the_test_set() -> None:
    targets, scores = sample(4, 60, False)
    thresholds = fit_thresholds(targets[:30, None], scores[:30, None], ["x"])
    result = diagnosis_metrics(targets[30:, None], scores[30:, None], ["x"], thresholds=thresholds, resamples=20)
    disease = result["diseases"]["x"]
    assert result["threshold_source"] == "validation" and disease["threshold"] == thresholds["x"]
    assert disease["f1"]["value"] == pytest.approx(sk.f1_score(targets[30:], scores[30:] >= thresholds["x"]))


def test_undefined_auc_is_left_out_and_said() -> None:
    targets = [[1, 0], [0, 0], [1, 0]]
    result = diagnosis_metrics(targets, [[0.9, 0.2], [0.1, 0.3], [0.8, 0.1]], ["seen", "never seen"], resamples=50)
    never = result["diseases"]["never seen"]
    assert never["auc"]["value"] is None and "0 positive" in never["auc"]["reason"]
    assert result["undefined_auc"] == ["never seen"] and any("never seen" in note for note in result["notes"])
    assert result["macro"]["auc"]["value"] == 1 and result["macro"]["auc"]["diseases"] == 1


def test_wholly_unknown_disease_and_no_samples_do_not_fail() -> None:
    result = diagnosis_metrics([[None, 1], [None, 0]], [[0.1, 0.9], [0.2, 0.1]], ["unknown", "known"], resamples=10)
    assert result["diseases"]["unknown"]["unknown"] == 2 and result["macro"]["auc"]["value"] == 1
    assert diagnosis_metrics([], [], ["x"], resamples=10)["macro"]["auc"]["value"] is None


@pytest.mark.parametrize(
    ("targets", "probabilities", "thresholds", "message"),
    [
        ([[2]], [[0.5]], None, "0, 1, or null"),
        ([[1]], [[float("nan")]], None, "'x' in sample 0"),
        ([[1]], [[0.5, 0.5]], None, "must both be"),
        ([[1]], [[0.5]], {"y": 0.5}, "no threshold for x"),
    ],
)
def test_bad_input_is_one_clear_error(targets, probabilities, thresholds, message) -> None:
    with pytest.raises(InputError, match=message):
        diagnosis_metrics(targets, probabilities, ["x"], thresholds=thresholds)
