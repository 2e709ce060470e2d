"""The learning rate over a run: against its closed form, and against DeepSpeed's."""

from __future__ import annotations

import math

import pytest
import torch

from training.schedule import learning_rate_factor


def test_schedule_has_its_closed_form():
    for step, expected in [(0, 0.25), (3, 1.0), (7, 0.5 * (1 + 0.2)), (11, 0.2), (50, 0.2)]:
        assert learning_rate_factor(step, 12, 4, 0.2) == pytest.approx(expected if step != 7 else 0.6)
    assert learning_rate_factor(0, 10, 0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))
    assert learning_rate_factor(5, 6, 100) == pytest.approx(0.06)


def test_log_warmup_is_that_of_deepspeed():
    from deepspeed.runtime.lr_schedules import WarmupCosineLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = WarmupCosineLR(optimizer, total_num_steps=60, warmup_num_steps=10, cos_min_ratio=1e-4)
    for step in range(60):
        reference.step(step)
        ours = learning_rate_factor(step, 60, 10, 1e-4, "log")
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), step
