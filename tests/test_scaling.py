"""The figures of docs/scaling.md against the papers' own and against counting by hand."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from benchmarks.scaling import Assumptions
from models.configuration import vision_preset
from models.vision import VisionModel
from train_encoder_2D1D import HyperParameters

RESULTS = {
    "rows": [
        {"stage": "encode, 1 patch(es)", "gflop": 300.0, "seconds": 1.0},
        {"stage": "encode, 6 patch(es)", "gflop": 2400.0, "seconds": 6.0},
        {"stage": "one mask, 6 patch(es)", "gflop": 12_000.0, "seconds": 40.0},
        {"stage": "NIfTI to patches", "gflop": None, "seconds": 2.0},
        {"stage": "cached volume to patches", "gflop": None, "seconds": 0.01},
    ]
}


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_memory_is_that_of_the_zero_paper(stage, gigabytes):
    # Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs
    assert scaling.memory_gb(7.5e9, 64, stage) == pytest.approx(gigabytes, rel=0.005)


def test_operations_of_the_nearest_size_are_scaled_to_the_patches():
    assert scaling.measured_gflop(RESULTS, 5) == pytest.approx((2000, 10_000))
    assert scaling.measured_gflop(RESULTS, 2)[0] == pytest.approx(600)


def test_pretraining_is_counted_task_by_task():
    settings = HyperParameters(max_iters=20, accumulation_steps=2, micro_batch=4, segmentation_micro_batch=1)
    flop, volumes = scaling.pretraining_flop(2.0, 5.0, settings, gpus=3)
    # the published weights: 38 of 64 draws are segmentation, 26 have no mask
    assert volumes == pytest.approx(60 * (38 * 1 + 26 * 4) / 64)
    assert flop == pytest.approx(60 * 4e9 * (38 * 1 * (2 + 5) + 26 * 4 * 2) / 64)


def test_parameters_are_counted_without_building_them():
    config = vision_preset("tiny")
    assert scaling.parameter_count(config) == sum(p.numel() for p in VisionModel(config).parameters())


def test_days_and_tables():
    assert scaling.days(86_400 * 8 * 312e12 * 0.3, Assumptions()) == pytest.approx(1)
    table = scaling.run_table(RESULTS, Assumptions(loader_ms=500))
    cells = [cell.strip() for cell in table.splitlines()[2].split("|")]
    rate, cores = float(cells[5]), float(cells[6])
    assert cores == pytest.approx(2 * rate, rel=0.05)  # a volume takes two seconds of a core
    assert float(cells[7]) == pytest.approx(0.5 * rate, abs=0.06), "and half a second from the cache"
    assert "| cache, 6 patches, int16 | 25 MB | 0.25 TB |" in scaling.storage_table(Assumptions())
