"""Autocast on the CPU: float32 weights, products in bf16."""

from __future__ import annotations

import pytest
import torch
from deepspeed.utils import safe_get_full_grad
from torch import nn

from training import distributed
from training.deepspeed_config import build_engine
from training.settings import TrainingSettings


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_autocast_computes_in_bf16_and_gives_nearly_the_gradient_of_float32(zero_stage):
    device = distributed.initialize().device
    torch.manual_seed(0)
    model, inputs, seen = nn.Linear(64, 32), torch.randn(16, 64), []
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    expected = torch.autograd.grad(model(inputs).square().mean(), model.weight)[0]
    engine = build_engine(
        model, TrainingSettings(precision="autocast", zero_stage=zero_stage, learning_rate=0.0), device
    )
    before = model.weight.detach().clone()
    loss = engine(inputs).float().square().mean()
    engine.backward(loss)
    gradient = safe_get_full_grad(model.weight)
    engine.step()
    assert seen[-1] == torch.bfloat16 and model.weight.dtype == torch.float32
    assert torch.equal(model.weight, before), "the rate is 0"
    assert (gradient - expected).norm() < 0.02 * expected.norm()
