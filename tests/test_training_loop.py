"""The training loop on one process: against a loop written by hand, and what it logs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from datasets.sampling import MixtureSampler
from tests import toy_task
from tests.toy_runs import HARD, assert_equal_to_the_bit, run, weights
from training import checkpoint_store, distributed, random_state
from training.deepspeed_config import build_engine
from training.schedule import learning_rate_factor
from training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_weights_equal_those_of_a_loop_written_by_hand(tmp_path):
    options = ["--tasks", "two", "--accumulation_steps", "3", "--micro_batch", "2", "--clip", "0.5", "--groups"]
    options += ["--weight_decay", "0.1", "--betas", "0.8", "0.95", "--warmup_shape", "log", "--min_lr_ratio", "0.1"]
    run(tmp_path, *options)

    settings = toy_task.ToySettings(samples=24)
    random_state.seed_all(0)
    model = toy_task.ToyModel(0.0)
    groups = [
        {"params": list(model.body.parameters()), "lr": 0.01},
        {"params": list(model.heads.parameters()), "lr": 1e-3},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.95), weight_decay=0.1)
    sampler = MixtureSampler(
        {"sine": 24, "product": 24}, {"sine": 2.0, "product": 1.0}, micro_batch=2, accumulation_steps=3
    )
    data = toy_task.ToyData(settings)
    for step in range(12):
        for micro_step in range(3):
            samples = [data[reference] for reference in sampler.references(step, micro_step)]
            (model(toy_task.collate(samples)).loss / 3).backward()
        for parameter in model.parameters():
            if parameter.grad is None:  # ZeRO steps a head without gradients as if they were zero
                parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        if step < 3:
            factor = math.log(step + 1) / math.log(3)
        else:
            factor = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 2) / 9)) / 2
        for group, peak in zip(optimizer.param_groups, (0.01, 0.001), strict=True):
            group["lr"] = peak * factor
        optimizer.step()
        optimizer.zero_grad()
    ours = weights(tmp_path)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", ["0", "1"])
def test_zero_stages_agree_and_resume(tmp_path, stage):
    run(tmp_path / "two", "--zero_stage", "2")
    run(tmp_path / "other", "--zero_stage", stage, "--terminate_at", "6")
    run(tmp_path / "other", "--zero_stage", stage, "--resume")
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(weights(tmp_path / "other")[name], tensor, rtol=0, atol=1e-6)


def test_bf16_casts_what_is_saved_and_no_derived_constant():
    ranks = distributed.initialize()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    model.register_buffer("inv_freq", 1 / 10_000 ** torch.arange(0, 1, 0.1), persistent=False)
    frequencies = model.inv_freq.clone()
    build_engine(model, TrainingSettings(precision="bf16"), ranks.device)
    assert model[1].running_var.dtype == model[1].weight.dtype == torch.bfloat16
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(model.inv_freq, frequencies)
    assert model(torch.randn(2, 1, 8, 8).bfloat16()).isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_behind_scalars_begin_where_a_vector_register_can_load_them(precision):
    """cuDNN's batch norm needs it: without, the first step on a GPU ends in "misaligned address"."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 3))
    scalar = nn.Parameter(torch.zeros(1))
    groups = [{"params": [scalar, *model.parameters()]}]
    model.register_parameter("scale", scalar)
    build_engine(model, TrainingSettings(precision=precision), distributed.initialize().device, groups)
    for name, parameter in model.named_parameters():
        size = parameter.numel() * parameter.element_size()
        assert parameter.data_ptr() % min(size & -size, 16) == 0, name


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights_under_the_same_names(tmp_path):
    run(tmp_path / "plain", "--max_iters", "3")
    run(tmp_path / "compiled", "--max_iters", "3", "--compile")
    ours, theirs = weights(tmp_path / "compiled", 3), weights(tmp_path / "plain", 3)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], tensor, atol=1e-5) for name, tensor in theirs.items())


def test_time_limit_saves_and_reports(tmp_path):
    result = run(tmp_path, "--max_minutes", "1e-9")
    assert (result.status, result.step) == ("time_limit", 0)
    assert checkpoint_store.find_problem(result.checkpoint) is None
    assert run(tmp_path, "--resume").status == "finished"


def test_workers_and_evaluations_do_not_change_the_result(tmp_path):
    run(tmp_path / "plain", *HARD)
    run(tmp_path / "busy", *HARD, "--workers", "2", "--eval_interval", "3", "--save_interval", "5")
    assert_equal_to_the_bit(tmp_path / "busy", tmp_path / "plain")


def test_scalars_per_task(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, "--tasks", "two", "--accumulation_steps", "4", "--eval_interval", "6")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    expected = {f"{task}/{name}" for task in ("sine", "product") for name in ("loss", "largest", "seconds")}
    assert expected | {"train/loss", "train/learning_rate", "train/gradient_norm", "evaluation/noise"} <= tags
    assert [event.step for event in events.Scalars("train/loss")] == [4, 8, 12]
    assert [event.step for event in events.Scalars("evaluation/noise")] == [6, 12]
    rates = [learning_rate_factor(step, 12, 3) * 0.01 for step in range(12)]
    shown = [event.value for event in events.Scalars("train/learning_rate")]
    np.testing.assert_allclose(shown, np.mean(np.reshape(rates, (3, 4)), axis=1), rtol=1e-5)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history if "train/loss" in row] == [4, 8, 12]


def test_learning_reduces_the_loss(tmp_path):
    options = ["--max_iters", "300", "--micro_batch", "8", "--log_interval", "50", "--save_interval", "0"]
    run(tmp_path, *options, "--learning_rate", "0.05")
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history[-1]["train/loss"] < 0.25 * history[0]["train/loss"]
