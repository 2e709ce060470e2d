"""CTInstruct on two ranks whose samples need different parts of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch import run_well


def train(run_dir: Path, kinds: str, ranks: int, steps: int = 2, options: tuple[str, ...] = ()) -> dict:
    run_well("tests/ctinstruct_ranks.py", run_dir, kinds, str(steps), *options, ranks=ranks, timeout=600)
    return load_file(run_dir / "checkpoints" / f"step_{steps:06d}" / "model" / "model.safetensors")


@pytest.mark.parametrize("kinds", ["segmentation,yes_no", pytest.param("text_only,diagnosis", marks=pytest.mark.slow)])
def test_two_ranks_equal_one_that_accumulates(tmp_path, kinds):
    """ZeRO-2 joins gradients by order of arrival: without the idle passes the ranks would mix up parameters here."""
    two = train(tmp_path / "two", kinds, 2)
    one = train(tmp_path / "one", kinds, 1)
    moved = 0
    for name, tensor in one.items():
        if "running" in name or "num_batches" in name:
            continue  # batch statistics belong to a rank; rank 0's are saved
        difference = float((tensor.float() - two[name].float()).abs().max())
        # Adam turns rounding noise in a zero gradient into a step of full size; nothing else may differ
        assert difference <= 5e-5, (name, difference)
        moved += 1
    assert moved > 100


def largest_difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    names = [name for name in first if "running" not in name and "num_batches" not in name]
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in names)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("stage", "offload"), [("2", "optimizer"), ("3", "parameters")])
def test_what_is_kept_on_the_cpu_learns_the_same(tmp_path, stage, offload):
    kinds = "segmentation,text_only"
    plain = train(tmp_path / "plain", kinds, 2, 3, ("--stage", stage))
    offloaded = train(tmp_path / "offloaded", kinds, 2, 3, ("--stage", stage, "--offload", offload))
    assert largest_difference(offloaded, plain) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_zero_3_saves_whole_weights_and_resumes_exactly(tmp_path):
    """The language model's weights are shared out; what is saved is the whole model, as stage 2 saves it."""
    kinds = "segmentation,text_only"
    lower = train(tmp_path / "lower", kinds, 2, 4, ("--stage", "2"))
    whole = train(tmp_path / "whole", kinds, 2, 4, ("--stage", "3"))
    assert {name: tensor.shape for name, tensor in whole.items()} == {name: t.shape for name, t in lower.items()}
    assert largest_difference(whole, lower) < 5e-5
    train(tmp_path / "parts", kinds, 2, 2, ("--stage", "3", "--of", "4"))
    resumed = train(tmp_path / "parts", kinds, 2, 4, ("--stage", "3", "--resume"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    checkpointed = train(tmp_path / "checkpointed", kinds, 2, 4, ("--stage", "3", "--gradient_checkpointing"))
    assert largest_difference(checkpointed, whole) < 5e-5
