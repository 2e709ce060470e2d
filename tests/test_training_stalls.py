"""In a micro-step nothing is read from the device and no rank is asked; ranks that end early end together."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from datasets.errors import InputError
from datasets.sampling import MixtureSampler
from tests import launch, toy_task
from tests.waits import Reads, mixed_batches, train
from training import look_ahead
from training.batches import BadInput
from training.device_values import Stopwatch, copied, read
from training.look_ahead import StepBatches
from training.progress import Averages
from training.stopping import _KEY, Stopping

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_the_counter_counts_what_waits() -> None:
    values = torch.arange(3.0)
    with Reads() as reads:
        float(values[0])
        if values.sum() > 1:
            values[values > 0]  # how many there are
        values.tolist()
        values * 2
    assert reads.count == 4


def test_more_micro_steps_read_nothing_more_from_the_device(tmp_path: Path) -> None:
    """And what a step reads does not grow with the metrics: it is one transfer, and DeepSpeed's reads of the norm."""
    counts = {}
    with mixed_batches():
        for steps, accumulation in ((2, 1), (4, 1), (4, 6)):
            with Reads() as reads:
                train(tmp_path / f"{steps}_{accumulation}", steps, accumulation)
            counts[steps, accumulation] = reads.count
    assert counts[4, 6] == counts[4, 1]
    assert (counts[4, 1] - counts[2, 1]) / 2 <= 8


def test_two_ranks_ask_each_other_once_a_step(tmp_path: Path) -> None:
    result = launch.run("tests/waits.py", tmp_path, ranks=2)
    told = re.findall(r"collectives (\{.*?\})", result.stdout)  # ranks write to one output, at times in one line
    assert result.returncode == 0 and len(told) == 2, result.stdout + result.stderr
    assert [json.loads(counts) for counts in told] == [{"1": 1.0, "4": 1.0}] * 2


@pytest.mark.parametrize("seed", range(4))
def test_ranks_that_run_apart_end_before_the_same_micro_step(seed: int) -> None:
    """Each rank is a thread that may be several micro-steps ahead; one or two of them have to end at some time."""
    store, ranks, generator = HashStore(), 3, random.Random(seed)
    store.set(_KEY, "6")
    ends_at = {rank: generator.randrange(7, 60) for rank in range(generator.choice((1, 2)))}
    begun: list[list[int]] = [[] for _ in range(ranks)]
    left: dict[int, tuple[int, str]] = {}

    def run(rank: int) -> None:
        pauses = random.Random(100 * seed + rank)
        stopping = Stopping(lambda: f"because of {rank}" if number >= ends_at.get(rank, 1000) else "", store)
        for number in range(7, 100):
            if reason := stopping.before(number):
                left[rank] = (number, reason)
                return
            begun[rank].append(number)
            time.sleep(pauses.choice((0, 0, 0.002)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(left) == ranks and len(set(left.values())) == 1
    number, reason = left[0]
    assert all(numbers == list(range(7, number)) for numbers in begun)
    assert reason in [f"because of {rank}" for rank in ends_at] and number >= min(ends_at.values())


def test_a_rank_alone_ends_before_the_micro_step_in_which_it_has_to() -> None:
    reasons = iter(["", "", "signal"])
    stopping = Stopping(lambda: next(reasons), None)
    assert [stopping.before(number) for number in range(3)] == ["", "", "signal"]


def test_a_step_with_an_unreadable_sample_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the sample is of the step's last micro-batch: what is known before needs no giving up."""
    forwards: list[int] = []
    monkeypatch.setattr(toy_task.ToyModel, "forward", _noting(toy_task.ToyModel.forward, forwards))
    options = ["--run_dir", str(tmp_path), "--unreadable_index", "20", "--accumulation_steps", "4"]
    with pytest.raises(InputError, match=r"sample_20.nii.gz"):
        toy_task.main(options)
    sampler = MixtureSampler({"sine": 24}, micro_batch=1, accumulation_steps=4)
    steps = range(24)
    bad = next(step for step in steps for micro in range(4) if sampler.references(step, micro)[0].index == 20)
    assert len(forwards) == 4 * bad


def _noting(forward: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def call(self: toy_task.ToyModel, batch: toy_task.ToyBatch) -> Any:
        calls.append(self.forwards)
        return forward(self, batch)

    return call


def test_batches_come_in_order_and_a_step_of_them_is_read_ahead() -> None:
    read_so_far = []

    def numbers() -> Iterator[list[torch.Tensor]]:
        for number in range(7):
            read_so_far.append(number)
            yield [torch.tensor(number)]

    ahead = StepBatches(numbers(), 3, CPU)
    assert ahead.fill(lambda: "") == "" and read_so_far == [0, 1, 2]
    taken = []
    for _ in range(7):
        taken.append(int(ahead.take()[0][0]))
        ahead.fetch()
    assert taken == list(range(7)) == read_so_far and ahead.problem is None and not ahead.unusable
    assert StepBatches(numbers(), 3, CPU).fill(lambda: "signal") == "signal"


def test_no_more_batches_are_held_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 7 in portions of 3, 3 and 1; number 18 is of the second portion of the third step."""
    monkeypatch.setattr(look_ahead, "MOST_AHEAD", 3)
    made, taken = 0, 0

    def numbers() -> Iterator[Any]:
        nonlocal made
        for number in range(21):
            made += 1
            assert made - taken <= 3
            yield BadInput("number 18") if number == 18 else torch.tensor(number)

    ahead = StepBatches(numbers(), 7, CPU)
    ahead.fill(lambda: "")
    with pytest.raises(InputError, match="number 18"):
        for number in range(21):
            ahead.begin(number % 7)
            assert ahead.take()[0] == number
            taken += 1
            ahead.fetch()
            ahead.unusable = number % 7 == 6 and ahead.problem is not None  # as the ranks agree at a step's end
    assert taken == 14 + 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits_for_the_copies_nor_for_what_is_measured() -> None:
    device = torch.device("cuda", 0)
    given = [torch.full((1 << 20,), float(number)).pin_memory() for number in range(6)]
    ahead, averages = StepBatches(iter([[tensor] for tensor in given]), 2, device), Averages()
    ahead.fill(lambda: "")
    total = torch.zeros((), device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in given:
            watch = Stopwatch(device)
            total = total + ahead.take()[0][0].mean()
            ahead.fetch()
            averages.add("total", total)
            averages.add("seconds", watch.stop())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    means = averages.take()
    assert means["total"] == pytest.approx((0 + 1 + 3 + 6 + 10 + 15) / 6) and means["seconds"] > 0


def test_means_of_tensors_are_those_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    values = [generator.gauss(0, 1) for _ in range(20)]
    numbers, tensors, largest = Averages(), Averages(), torch.zeros(1)
    for value in values:
        numbers.add("loss", torch.tensor(value).item())
        largest[0] = value
        tensors.add("loss", largest)  # changes afterwards
        tensors.add("other", 1.0)
    assert tensors.take() == {**numbers.take(), "other": 1.0}
    assert tensors.take() == {}


def test_a_stopwatch_leaves_out_its_pauses() -> None:
    watch = Stopwatch(CPU)
    time.sleep(0.02)
    watch.pause()
    time.sleep(1.0)
    watch.go_on()
    span = watch.stop()
    assert 0.02 <= span.seconds() < 1.0
    assert read([copied(torch.tensor([2.5], dtype=torch.bfloat16)), copied(torch.tensor(3))]) == [2.5, 3.0]
