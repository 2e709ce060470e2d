"""The three objectives under ZeRO-2: each step of a run uses other parameters, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch import run_well


def train(run_dir: Path, steps: int, *options: str, ranks: int = 1) -> dict[str, torch.Tensor]:
    run_well("tests/pretraining_ranks.py", run_dir, str(steps), *options, ranks=ranks, timeout=240)
    folder = run_dir / "checkpoints" / f"step_{steps:06d}" / "model"
    return load_file(folder / "vision.safetensors") | load_file(folder / "objectives.safetensors")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Two steps without interruption."""
    return train(tmp_path_factory.mktemp("one"), 2)


def test_two_ranks_equal_one_with_the_concatenated_batch(one_rank, tmp_path):
    """Contrastive negatives of the other rank and a queue that both fill are part of what has to be equal."""
    two = train(tmp_path, 2, ranks=2)
    assert len(one_rank) > 100
    for name, tensor in one_rank.items():
        difference = (tensor - two[name]).abs().float()
        # Adam turns rounding noise in a gradient of almost zero into a step of 1e-4; nothing else may differ
        assert difference.max() <= 1e-4 and difference.mean() <= 2e-6, (name, difference.max(), difference.mean())


@pytest.mark.slow
def test_a_resumed_run_goes_on_exactly(one_rank, tmp_path):
    """The queue of earlier texts is part of the state: without it the second step would have other negatives."""
    train(tmp_path, 1)
    resumed = train(tmp_path, 2, "--resume")
    for name, tensor in one_rank.items():
        assert torch.equal(tensor, resumed[name]), name
