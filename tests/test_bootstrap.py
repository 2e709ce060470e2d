"""Intervals by patient against plain resampling loops, closed forms and known coverage."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics.bootstrap import PatientBootstrap, bootstrap_mean, bootstrap_sums, make_estimate, ratio


def test_mean_and_interval_equal_a_plain_loop_over_patients() -> None:
    values, patients = [1.0, 0.0, 0.5, 0.25, 1.0, 0.75], ["a", "a", "b", "c", "c", "c"]
    names = ["a", "b", "c"]
    generator = np.random.default_rng(3)
    resampled = []
    for counts in generator.multinomial(3, [1 / 3] * 3, size=400):
        drawn = [
            v
            for name, count in zip(names, counts, strict=True)
            for v, p in zip(values, patients, strict=True)
            if p == name
            for _ in range(count)
        ]
        resampled.append(sum(drawn) / len(drawn))
    estimate = bootstrap_mean(values, patients, resamples=400, seed=3)
    assert estimate["value"] == pytest.approx(3.5 / 6)
    assert [estimate["low"], estimate["high"]] == pytest.approx(list(np.percentile(resampled, [2.5, 97.5])))
    assert (estimate["n"], estimate["patients"]) == (6, 3)


def test_interval_of_independent_samples_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    estimate = bootstrap_mean(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert estimate["high"] - estimate["low"] == pytest.approx(2 * half, rel=0.05)


def test_repeating_each_sample_of_a_patient_leaves_the_interval_as_it_is() -> None:
    """Ten copies of a scan are no more evidence than one: this fails if samples are drawn instead of patients."""
    values = list(np.random.default_rng(0).normal(size=50))
    once = bootstrap_mean(values, list(range(50)), seed=4)
    copies = bootstrap_mean(values * 10, list(range(50)) * 10, seed=4)
    assert copies["low"] == pytest.approx(once["low"]) and copies["high"] == pytest.approx(once["high"])
    assert copies["n"] == 500 and copies["patients"] == 50
    narrow = bootstrap_mean(values * 10, seed=4)
    assert narrow["high"] - narrow["low"] < 0.5 * (once["high"] - once["low"])


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        estimate = bootstrap_mean(generator.exponential(1.0, 80), resamples=300, seed=trial)
        hits += estimate["low"] <= 1.0 <= estimate["high"]
    assert 0.89 <= hits / 300 <= 0.98


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values = list(range(30))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_weights_and_sums_draw_the_same_resamples_at_any_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).random((40, 3))
    patients = [index % 11 for index in range(40)]
    bootstrap = PatientBootstrap(patients, resamples=200, seed=9)
    point, drawn = bootstrap.sums(columns)
    monkeypatch.setattr("evaluation.metrics.bootstrap.CHUNK_ELEMENTS", 500)  # chunks of a dozen resamples
    weighted_point, weighted = bootstrap.weighted(lambda weights: weights @ columns)
    assert np.allclose(point, weighted_point) and np.allclose(drawn, weighted)


def test_missing_values_are_left_out_and_nothing_left_has_no_number() -> None:
    estimate = bootstrap_mean([1.0, None, float("nan"), 3.0])
    assert estimate["value"] == 2.0 and estimate["n"] == 2
    empty = bootstrap_mean([None, None])
    assert empty["value"] is None and empty["low"] is None and empty["n"] == 0 and "reason" in empty
    assert bootstrap_mean([])["value"] is None


def test_one_patient_has_a_mean_and_no_interval() -> None:
    estimate = bootstrap_mean([0.2, 0.4], ["same", "same"])
    assert estimate["value"] == pytest.approx(0.3) and estimate["low"] is None and estimate["high"] is None


def test_patients_without_a_key_stand_for_themselves() -> None:
    assert bootstrap_mean([0.0, 1.0, 1.0], [None, None, "x"])["patients"] == 3


def test_undefined_resamples_are_left_out_of_the_interval() -> None:
    estimate = make_estimate(0.5, np.array([0.4, np.nan, 0.6]), 3, 3)
    assert estimate["low"] == pytest.approx(0.405) and estimate["high"] == pytest.approx(0.595)


def test_ratio_of_sums_is_not_the_mean_of_ratios() -> None:
    columns = np.array([[1.0, 2.0], [9.0, 10.0]])
    estimate = bootstrap_sums(columns, lambda sums: ratio(sums[:, 0], sums[:, 1]))
    assert estimate["value"] == pytest.approx(10 / 12)


def test_zero_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_mean([1.0], resamples=0)
