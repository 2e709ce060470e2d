"""A loss far above those before it names its samples, and nothing else does."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from datasets.sampling import MixtureSampler
from tests import toy_task
from training.loss_spikes import LossSpikes

pytestmark = pytest.mark.usefixtures("clean_environment")


def told(losses: list[float], capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Steps, counted from 0, of the lines that a task's losses lead to."""
    spikes = LossSpikes()
    for step, loss in enumerate(losses):
        spikes.add(step, "report", loss, [f"patient-{step}"])
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split()[1].rstrip(":")) for line in lines]
    assert all(line.endswith(f"samples patient-{step}") for line, step in zip(lines, steps, strict=True))
    return steps


def test_only_what_is_far_above_the_losses_before_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(0)
    losses = [1 + generator.gauss(0, 0.1) for _ in range(400)]
    assert told(losses, capsys) == []
    spiked = [*losses[:200], 3.0, *losses[200:]]
    assert told(spiked, capsys) == [200]
    assert told([*losses[:200], 1.8, *losses[200:]], capsys) == []  # eight deviations
    assert told([*losses[:200], -9.0, *losses[200:]], capsys) == []
    assert told([1.0] * 200 + [1.4, 2.0, 3.1], capsys) == [202]  # half as much again as the highest
    assert told([5.0] * 49 + [50.0] + [5.0] * 9 + [90.0], capsys) == [59]  # the fiftieth has too few before it
    assert told([*losses, *(5 + loss for loss in losses)], capsys) == [400]  # another level is told once


def test_losses_that_are_high_now_and_then_are_no_spikes(capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(0)
    learned = [generator.uniform(1.6, 2.3) if generator.random() < 0.1 else 0.02 for _ in range(5000)]
    assert told(learned, capsys) == []
    assert told([*learned, 9.0], capsys) == [5000]


def test_tasks_are_compared_with_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    spikes = LossSpikes()
    for step in range(100):
        spikes.add(step, "small", 0.01, ["a"])
        spikes.add(step, "large", 9.0, ["b"])
    assert capsys.readouterr().err == ""


def test_a_run_names_the_samples_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = toy_task.ToyModel.forward

    def forward(self, batch):
        output = plain(self, batch)
        if self.forwards == 60:
            output.loss = output.loss * 0 + 1000.0
        return output

    monkeypatch.setattr(toy_task.ToyModel, "forward", forward)
    toy_task.main(["--run_dir", str(tmp_path), "--max_iters", "64", "--micro_batch", "2"])
    sampler = MixtureSampler({"sine": 24}, micro_batch=2, accumulation_steps=1)
    names = ", ".join(f"sine-{reference.index}" for reference in sampler.references(59, 0))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "the loss of" in line]
    assert re.fullmatch(
        rf"step 60: the loss of sine is 1000, of the 59 before it the median is \S+: samples {names}", line
    )
