"""Clipping without ZeRO: as torch does it, by the one norm that is also checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed.runtime.engine
import deepspeed.runtime.utils
import pytest
import torch

from datasets.sampling import MixtureSampler
from tests import toy_task
from tests.toy_runs import run, weights
from training import random_state

CLIP = 0.05  # below every norm of these steps
pytestmark = pytest.mark.usefixtures("clean_environment")


def by_hand(clip: float) -> dict[str, torch.Tensor]:
    """The weights after three steps of two micro-batches; the head of the other task gets no gradient."""
    random_state.seed_all(0)
    model = toy_task.ToyModel(0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    data = toy_task.ToyData(toy_task.ToySettings())
    sampler = MixtureSampler({"sine": 24}, micro_batch=2, accumulation_steps=2)
    for step in range(3):
        for micro_step in range(2):
            samples = [data[reference] for reference in sampler.references(step, micro_step)]
            (model(toy_task.collate(samples)).loss / 2).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or torch.inf)
        assert norm > CLIP
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("clip", [CLIP, 0.0])
def test_it_is_that_of_torch_and_takes_the_norm_once(
    clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, int] = {}

    def counted(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def counting(*values: Any, **options: Any) -> Any:
            taken[name] = taken.get(name, 0) + 1
            return plain(*values, **options)

        monkeypatch.setattr(module, name, counting)

    counted(deepspeed.runtime.utils, "clip_grad_norm_")
    counted(torch.nn.utils, "get_total_norm")
    monkeypatch.setattr(deepspeed.runtime.engine, "clip_grad_norm_", None)  # the engine's own is not called
    options = ["--zero_stage", "0", "--max_iters", "3", "--warmup", "0", "--micro_batch", "2", "--clip", str(clip)]
    options += ["--accumulation_steps", "2", "--min_lr_ratio", "1", "--weight_decay", "0"]
    run(tmp_path, *options)
    assert taken == {"clip_grad_norm_" if clip else "get_total_norm": 3}
    ours, expected = weights(tmp_path, 3), by_hand(clip)
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    other = by_hand(0.0 if clip else CLIP)
    assert not torch.allclose(ours["body.weight"], other["body.weight"], atol=1e-5), "clipping makes a difference here"
