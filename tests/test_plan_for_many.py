"""The plan for many CTs against counting by hand, and the measurement behind it on a small cache."""

from __future__ import annotations

from math import sqrt

import pytest

from benchmarks import loader
from benchmarks.plan_for_many import (
    Assumptions,
    best_save_interval,
    failures_a_day,
    lost_share,
    plan,
    table,
    volumes_a_second,
)


def test_failures_of_a_machine_with_a_known_rate():
    assumed = Assumptions(gpus=100, failure_hours=2400, save_seconds=8, restart_minutes=1)
    assert failures_a_day(assumed) == pytest.approx(1)
    assert best_save_interval(assumed) == pytest.approx(sqrt(2 * 8 * 86_400))
    cost = [8 / seconds + (seconds / 2 + 60) / 86_400 for seconds in range(100, 4000)]
    assert lost_share(assumed) == pytest.approx(min(cost), rel=1e-3), "no other interval loses less"


def test_the_published_rate_of_failures():
    assert failures_a_day(Assumptions(gpus=16_384)) * 54 == pytest.approx(419)


def test_a_plan_is_counted_in_its_units():
    assumed = Assumptions(gpus=16, passes=3, raw_mb=100, cached_mb=20, loader_ms=500)
    found, rate = plan(2_000_000, assumed), volumes_a_second(assumed)
    assert float(found["days"]) == pytest.approx(6e6 / (16 * rate) / 86_400, abs=0.06)
    assert (found["CTs, TB"], found["cache, TB"], found["cache a node, TB"]) == ("200", "40.0", "20.00")
    assert float(found["read a node, GB/s"]) == pytest.approx(8 * rate * 0.02, abs=0.006)
    assert float(found["loader cores a GPU"]) == pytest.approx(rate / 2, abs=0.006)
    assert table({"a": found, "b": found}).count("\n") == len(found) + 1


def test_the_loader_is_measured_volume_by_volume(tmp_path):
    megabytes, passes = loader.measured(tmp_path, volumes=2, patches=1)
    assert megabytes == pytest.approx(256 * 256 * 32 * 2 / 1e6, rel=0.01), "16 bits a voxel"
    assert set(passes) == {"out of memory", "from the disk"}
    assert all(0 < found.processor_seconds < 60 and found.seconds > 0 for found in passes.values())
