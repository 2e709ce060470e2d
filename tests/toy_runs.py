"""Runs of the toy task in this process or in one of their own, and the weights that they leave."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import launch, toy_task

HARD = ["--dropout", "0.3", "--augment", "--tasks", "two", "--accumulation_steps", "2", "--micro_batch", "2"]


def run(run_dir: Path, *options: str):
    return toy_task.main(["--run_dir", str(run_dir), *options])


def run_apart(run_dir: Path, *options: str) -> subprocess.CompletedProcess:
    """The same as a process of its own, as a user starts it."""
    return launch.run("tests/toy_task.py", "--run_dir", run_dir, *options)


def weights(run_dir: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step_{step:06d}" / "model" / "model.safetensors")


def assert_equal_to_the_bit(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
