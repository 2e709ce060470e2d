"""A run that goes on on other numbers of ranks, against one that was never interrupted; states that are cut anew."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datasets.errors import InputError
from datasets.sampling import MixtureSampler
from tests import toy_task
from train_encoder_2D1D import HyperParameters
from training import checkpoint_store
from training.distributed import Ranks, free_port
from training.pretraining.run import sampler_of
from training.pretraining.settings import in_updates
from training.recut import cut, load_state, recut, recut_by_weight
from training.resumed_settings import in_present_form
from training.script import leave
from training.training_state import check_same

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
TASKS = {"report": 40, "seg": 7, "vqa": 100}


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 3), (3, 1), (4, 6), (5, 2)])
def test_pieces_cut_anew_are_those_of_the_whole(before, after):
    """17 elements, in pieces of equal length that zeros fill up, as ZeRO shares them out."""

    def shared_out(ranks: int) -> list[torch.Tensor]:
        length = -(-17 // (2 * ranks)) * 2
        return list(torch.cat([torch.arange(1.0, 18), torch.zeros(ranks * length - 17)]).split(length))

    expected = shared_out(after)
    for rank in range(after):
        assert torch.equal(cut(shared_out(before), rank, len(expected[rank])), expected[rank])


def test_moments_go_with_their_weights_and_statistics_are_averaged():
    def state(rank: int) -> dict:
        weights = [torch.arange(6.0).split(3)[rank], torch.arange(10.0, 14.0).split(2)[rank]]
        moments = {i: {"step": torch.tensor(5.0), "exp_avg": -piece} for i, piece in enumerate(weights)}
        buffers = {"mean": torch.tensor([float(rank)]), "seen": torch.tensor(7), "same": torch.tensor([0.1])}
        return {
            "weights": weights,
            "optimizer": {"state": moments, "param_groups": [{"lr": 0.1}]},
            "buffers": buffers,
            "loss_scale": {"cur_scale": 8.0},
        }

    states = [state(0), state(1)]
    alone = recut(states, 0, [6, 4])
    assert torch.equal(alone["weights"][0], torch.arange(6.0)) and len(alone["weights"][1]) == 4
    for group, weights in enumerate(alone["weights"]):
        assert torch.equal(alone["optimizer"]["state"][group]["exp_avg"], -weights)
        assert alone["optimizer"]["state"][group]["step"] == 5
    assert alone["buffers"] == {"mean": torch.tensor([0.5]), "seen": torch.tensor(7), "same": torch.tensor([0.1])}
    assert alone["loss_scale"] == {"cur_scale": 8.0} and alone["optimizer"]["param_groups"] == [{"lr": 0.1}]
    assert torch.equal(recut(states, 0, [])["weights"][1], states[0]["weights"][1]), "ZeRO 0 has all of it everywhere"


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5)])
def test_pieces_of_each_weight_are_cut_anew_by_themselves(before, after):
    """Weights of 5, 4, 7 and 1 elements, in two flat tensors before and three after, as ZeRO 3 may lay them out."""
    weights = [torch.arange(1.0, 6), torch.arange(10.0, 14), torch.arange(20.0, 27), torch.tensor([30.0])]

    def state(rank: int, ranks: int, tensors: list[list[int]], groups: list[list[int]]) -> dict:
        def piece(weight: torch.Tensor) -> torch.Tensor:
            size = -(-len(weight) // ranks)
            return torch.cat([weight, torch.zeros(size * ranks - len(weight))])[rank * size : (rank + 1) * size]

        flat = [torch.cat([piece(weights[index]) for index in members]) for members in tensors]
        steps = {tensor: 5.0 + number for number, members in enumerate(groups) for tensor in members}
        moments = {i: {"step": torch.tensor(steps[i]), "exp_avg": -tensor} for i, tensor in enumerate(flat)}
        options = [{"lr": 0.1 * number, "params": members} for number, members in enumerate(groups)]
        return {"weights": flat, "optimizer": {"state": moments, "param_groups": options}, "buffers": {}}

    states = [state(rank, before, [[0, 1], [2, 3]], [[0], [1]]) for rank in range(before)]
    for rank in range(after):
        found = recut_by_weight(states, rank, after, [[5], [4], [7, 1]], [0, 0, 1])
        expected = state(rank, after, [[0], [1], [2, 3]], [[0, 1], [2]])
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        steps = [moments["step"] for moments in found["optimizer"]["state"].values()]
        assert len({step.data_ptr() for step in steps}) == 3, "each is counted on by itself"


@pytest.mark.parametrize("mode", ["one_task", "mixed"])
def test_the_micro_batches_of_a_step_do_not_depend_on_the_ranks(mode):
    def step_of(ranks: int, step: int) -> list:
        samplers = [
            MixtureSampler(
                TASKS,
                mode=mode,
                micro_batch=2,
                accumulation_steps=12 // ranks,
                rank=rank,
                world_size=ranks,
                draw_ranks=6,
            )
            for rank in range(ranks)
        ]
        return [sampler.references(step, micro) for micro in range(12 // ranks) for sampler in samplers]

    for step in (0, 7, 600):
        expected = step_of(1, step)
        assert len({str(micro_batch) for micro_batch in expected}) == 12
        assert all(step_of(ranks, step) == expected for ranks in (2, 3, 6))
        if mode == "one_task":
            assert all(
                len({one.task for micro_batch in expected[i : i + 6] for one in micro_batch}) == 1 for i in (0, 6)
            )


def test_ranks_that_would_have_different_tasks_are_refused():
    with pytest.raises(InputError, match="--draw_ranks 4 does not divide by 3 ranks"):
        MixtureSampler(TASKS, world_size=3, draw_ranks=4)
    assert MixtureSampler({"one": 5}, world_size=3, draw_ranks=4).references(0), "one task cannot differ"


def test_checkpoints_of_before_fit_the_same_run():
    then = {"mode": "one_task", "seed": 3, "world_size": 2, "accumulation_steps": 4, "tasks": TASKS}
    saved = in_present_form({"settings": {"ranks": 2, "zero_stage": 2}, "sampler": then})
    now = {"mode": "one_task", "seed": 3, "micro_batches_per_step": 8, "micro_batches_per_draw": 2, "tasks": TASKS}
    check_same(saved, {"settings": {"zero_stage": 2}, "sampler": now}, "step_1")
    with pytest.raises(InputError, match="a step had 8 micro-batches, counted over all ranks, and now has 6"):
        check_same(saved, {"settings": {"zero_stage": 2}, "sampler": {**now, "micro_batches_per_step": 6}}, "step_1")


def test_draws_of_eight_ranks_on_fewer():
    settings = HyperParameters(draw_ranks=8, max_iters=100, accumulation_steps=4)
    loops = [in_updates(settings, ranks) for ranks in (1, 2, 8)]
    assert [loop.accumulation_steps for loop in loops] == [32, 16, 4]
    assert {loop.max_iters for loop in loops} == {25}
    with pytest.raises(InputError, match="--draw_ranks 8 does not divide by 3 ranks"):
        in_updates(settings, 3)
    assert in_updates(HyperParameters(accumulation_steps=4), 3).accumulation_steps == 4


def test_pretraining_draws_the_same_batches_on_any_ranks_that_divide_a_draw():
    kinds = ("segmentation", "classification")
    tasks = [SimpleNamespace(name=kind, kind=kind, weight=1.0) for kind in kinds]
    data = SimpleNamespace(tasks=tasks, decoded=tasks)

    def update(ranks: int) -> list:
        loop = in_updates(HyperParameters(draw_ranks=4, accumulation_steps=3), ranks)
        samplers = [
            sampler_of(loop, data, dict.fromkeys(kinds, 50), replace(ALONE, rank=rank, world_size=ranks))
            for rank in range(ranks)
        ]
        return [sampler.references(5, micro) for micro in range(loop.accumulation_steps) for sampler in samplers]

    assert len(update(1)) == 12
    assert update(1) == update(2) == update(4)


def test_what_cannot_be_cut_anew_is_refused(tmp_path):
    (tmp_path / "training").mkdir()
    for rank in range(2):
        torch.save({"rank": rank}, tmp_path / "training" / f"rank_{rank:03d}.pt")
    engine = SimpleNamespace(optimizer=SimpleNamespace(round_robin_gradients=True))
    with pytest.raises(InputError, match="with round_robin_gradients of --deepspeed_config no other number, as 1, can"):
        load_state(engine, tmp_path, ALONE)
    assert load_state(engine, tmp_path, replace(ALONE, rank=1, world_size=2)) == {"rank": 1}


def start(options: list[str], rank: int, ranks: int, port: int) -> None:
    """One rank of a run, in a process that has imported everything already."""
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    toy_task.main(options)
    leave(0)


def train(run_dir: Path, ranks: int, steps: int, *options: str) -> None:
    """Train up to a step, of twelve micro-batches with dropout and two tasks, from where the run is."""
    words = ["--run_dir", run_dir, "--tasks", "two", "--draw_ranks", 6, "--dropout", 0.2, "--micro_batch", 2]
    words += ["--log_interval", 1, "--save_interval", 0, "--schedule_updates", 12, "--max_iters", steps]
    words += ["--accumulation_steps", 12 // ranks, "--resume", *options]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "torch.utils.tensorboard", "tests.toy_task"])
    port = free_port()
    processes = [context.Process(target=start, args=([*map(str, words)], rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(500)
    assert [process.exitcode for process in processes] == [0] * ranks


def losses(run_dir: Path) -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "history.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["train/loss"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--zero_stage", "0", "--optimizer", "Muon"),
        ("--zero_stage", "1"),
        ("--zero_stage", "2", "--groups"),
        ("--zero_stage", "3", "--groups"),
    ],
    ids=["zero 0, Muon", "zero 1", "zero 2", "zero 3"],
)
def test_one_two_three_and_one_rank_go_on_as_one(tmp_path, options):
    train(tmp_path / "whole", 1, 12, *options)
    for steps, ranks in [(3, 1), (6, 2), (9, 3), (12, 1)]:
        train(tmp_path / "moved", ranks, steps, *options)
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    expected, found = (
        checkpoint_store.load_rank_state(tmp_path / name / "checkpoints" / "step_000012", 0)
        for name in ("whole", "moved")
    )
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["optimizer"]["state"], expected["optimizer"]["state"], rtol=0, atol=1e-5)
    description = checkpoint_store.read_description(tmp_path / "moved" / "checkpoints" / "step_000012")
    ranks = [
        (change["was"], change["now"]) for change in description["changed_settings"] if change["setting"] == "ranks"
    ]
    assert ranks == [(1, 2), (2, 3), (3, 1)]
