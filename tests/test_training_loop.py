"""The training loop on one process: against a loop written by hand, and interrupted in every way."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from datasets.errors import InputError
from datasets.sampling import MixtureSampler
from tests import launch, toy_task
from training import checkpoint_store, distributed, random_state
from training.deepspeed_config import build_engine
from training.loop import NonFiniteLossError
from training.schedule import learning_rate_factor
from training.settings import TrainingSettings
from training.training_state import check_same

REPOSITORY = Path(__file__).resolve().parents[1]
HARD = ["--dropout", "0.3", "--augment", "--tasks", "two", "--accumulation_steps", "2", "--micro_batch", "2"]


pytestmark = pytest.mark.usefixtures("clean_environment")


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


def test_killed_run_and_killed_save_resume_to_the_same_bits(tmp_path):
    run(tmp_path / "whole", *HARD)
    killed = run_apart(tmp_path / "broken", *HARD, "--kill_at", "7")
    assert killed.returncode == -signal.SIGKILL
    killed = run_apart(tmp_path / "broken", *HARD, "--resume", "--kill_in_save", "8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "resumed from" in killed.stdout and "step_000004" in killed.stdout
    left = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert left == [".partial_step_000008", "step_000004"]
    resumed = run_apart(tmp_path / "broken", *HARD, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_to_the_bit(tmp_path / "broken", tmp_path / "whole")
    rows = [[json.loads(line)["step"] for line in (run_dir / "history.jsonl").open()] for run_dir in tmp_path.iterdir()]
    assert rows == [[4, 8, 12], [4, 8, 12]]  # what was logged and then lost is logged once
    left = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert left == ["step_000008", "step_000012"]


def test_sigterm_gives_up_the_step_in_hand_and_resumes_to_the_same_bits(tmp_path):
    run(tmp_path / "whole", *HARD)
    result = run(tmp_path / "stopped", *HARD, "--terminate_at", "6", "--workers", "2")  # in its first of two batches
    assert (result.status, result.step, result.checkpoint.name) == ("signal", 5, "step_000005")
    result = run(tmp_path / "stopped", *HARD, "--resume")
    assert (result.status, result.step) == ("finished", 12)
    assert_equal_to_the_bit(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(("precision", "kept"), [("bf16", torch.bfloat16), ("autocast", torch.float32)])
def test_half_precision_resumes_to_the_same_bits(tmp_path, precision, kept):
    options = [*HARD, "--precision", precision]
    run(tmp_path / "whole", *options)
    run(tmp_path / "stopped", *options, "--terminate_at", "5")
    run(tmp_path / "stopped", *options, "--resume")
    assert {tensor.dtype for tensor in weights(tmp_path / "whole").values()} == {kept}
    assert_equal_to_the_bit(tmp_path / "stopped", tmp_path / "whole")


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


def test_resuming_from_an_earlier_step_leaves_the_later_history(tmp_path):
    run(tmp_path, "--keep_checkpoints", "5")
    whole = weights(tmp_path)
    result = run(tmp_path, "--keep_checkpoints", "5", "--resume", str(tmp_path / "checkpoints/step_000004"))
    assert result.step == 12
    assert all(torch.equal(weights(tmp_path)[name], tensor) for name, tensor in whole.items())
    run(tmp_path, "--resume", str(tmp_path / "checkpoints/step_000004"), "--max_iters", "6")
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000006"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_nan_stops_before_the_weights_change_and_names_the_sample(tmp_path, workers):
    sampler = MixtureSampler({"sine": 24}, micro_batch=2, accumulation_steps=2)
    bad = next(reference.index for reference in sampler.references(5, 0))  # in step 6, counted from 1
    options = ["--accumulation_steps", "2", "--micro_batch", "2", "--workers", workers, "--bad_index", str(bad)]
    seen_before = [r.index for step in range(5) for micro in range(2) for r in sampler.references(step, micro)]
    assert bad not in seen_before
    with pytest.raises(NonFiniteLossError, match=rf"step 6.*task sine, samples .*sine-{bad}\b.*loss nan"):
        run(tmp_path, *options)
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000004"


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 2), ("bf16", 2)])
def test_gradient_that_is_not_finite_stops_too(tmp_path, monkeypatch, precision, stage):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    plain = toy_task.ToyModel.forward

    models = []

    def forward(self, batch):
        output = plain(self, batch)
        models.append(self)
        if self.forwards == 6:
            output.loss = Poison.apply(output.loss)
        return output

    monkeypatch.setattr(toy_task.ToyModel, "forward", forward)
    with pytest.raises(NonFiniteLossError, match=r"step 6.*samples sine-\d+: the gradient"):
        run(tmp_path, "--precision", precision, "--zero_stage", str(stage))
    assert all(weight.isfinite().all() for weight in models[-1].parameters()), "the update is not applied"
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000004"


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "2"], ["--workers", "2", "--stuck_workers"]])
def test_unreadable_sample_is_one_clear_line(tmp_path, options):
    result = run_apart(tmp_path, "--unreadable_index", "3", "--max_iters", "30", *options)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert lines == ["error: sample_3.nii.gz: the file is truncated; fetch it again"]
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        environment = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "tests/toy_task.py", "--run_dir", str(tmp_path)]
        result = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
    assert result.returncode == 2
    assert f"error: port {port} is taken" in result.stderr and "--master_port" in result.stderr
    assert "Traceback" not in result.stderr


def test_workers_and_evaluations_do_not_change_the_result(tmp_path):
    run(tmp_path / "plain", *HARD)
    run(tmp_path / "busy", *HARD, "--workers", "2", "--eval_interval", "3", "--save_interval", "5")
    assert_equal_to_the_bit(tmp_path / "busy", tmp_path / "plain")


def test_a_bf16_run_with_frozen_weights_resumes_to_the_same_bits(tmp_path):
    options = ["--precision", "bf16", "--no_unfreeze"]
    run(tmp_path / "whole", *options)
    run(tmp_path / "parts", *options, "--terminate_at", "6")
    build = toy_task.ToyModel.__init__

    def build_from_checkpoint(self, dropout):
        build(self, dropout)
        folder = checkpoint_store.latest_complete(tmp_path / "parts") / "model"
        self.load_state_dict(load_file(folder / "model.safetensors"))

    toy_task.ToyModel.__init__ = build_from_checkpoint
    try:
        run(tmp_path / "parts", *options, "--resume")
    finally:
        toy_task.ToyModel.__init__ = build
    assert weights(tmp_path / "whole")["body.weight"].dtype == torch.bfloat16
    assert_equal_to_the_bit(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_differs_cannot_be_resumed(tmp_path, monkeypatch):
    run(tmp_path, "--max_iters", "4", "--no_unfreeze")
    with pytest.raises(InputError, match="sampler seed was 0 and is now 1"):
        run(tmp_path, "--resume", "--no_unfreeze", "--seed", "1")
    with pytest.raises(InputError, match="settings zero_stage was 2 and is now 1"):
        run(tmp_path, "--resume", "--no_unfreeze", "--zero_stage", "1")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="settings weight_layout was 'aligned'"):
        patch.setattr("training.loop.WEIGHT_LAYOUT", "another")
        run(tmp_path, "--resume", "--no_unfreeze")
    with pytest.raises(InputError, match=r"weights of body\.weight was '48 weights, 0 of .* now '48 weights, 48 of"):
        run(tmp_path, "--resume")
    build = toy_task.ToyModel.__init__

    def build_otherwise(self, dropout):
        build(self, dropout)
        self.body.weight.data[0, 0] += 1

    toy_task.ToyModel.__init__ = build_otherwise
    try:
        with pytest.raises(InputError, match="the weights that are not trained are others; resume with"):
            run(tmp_path, "--resume", "--no_unfreeze")
    finally:
        toy_task.ToyModel.__init__ = build


def test_a_checkpoint_of_before_that_counts_no_weights_is_compared_by_its_hash():
    now = {"weights of": {"body.weight": "48 weights, 48 of them trained"}, "architecture": "a"}
    check_same({"weights of": None, "architecture": "a"}, now, "step_1")
    with pytest.raises(InputError, match="step_1: cannot resume, the model is built otherwise, or other parts of it"):
        check_same({"weights of": None, "architecture": "b"}, now, "step_1")


def test_an_existing_run_is_not_overwritten_by_accident(tmp_path):
    run(tmp_path, "--max_iters", "4")
    with pytest.raises(InputError, match="--resume"):
        run(tmp_path, "--max_iters", "4")
    run(tmp_path, "--max_iters", "2", "--overwrite")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]


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


def test_a_resumed_run_says_what_has_changed_and_keeps_both_values(tmp_path, capfd):
    run(tmp_path, "--max_iters", "4", "--learning_rate", "0.01")
    capfd.readouterr()
    run(tmp_path, "--max_iters", "8", "--learning_rate", "0.02", "--resume")
    assert "learning_rate 0.01 -> 0.02" in capfd.readouterr().out
    newest = run(tmp_path, "--max_iters", "12", "--learning_rate", "0.02", "--resume").checkpoint
    changes = checkpoint_store.read_description(newest)["changed_settings"]
    assert {"step": 4, "setting": "learning_rate", "was": 0.01, "now": 0.02} in changes
    assert {"step": 8, "setting": "max_iters", "was": 8, "now": 12} in changes
    assert [change["setting"] for change in changes].count("learning_rate") == 1


def test_a_resumed_run_cannot_end_before_its_checkpoint(tmp_path):
    run(tmp_path, "--max_iters", "6")
    with pytest.raises(InputError, match="--max_iters 3 ends before step 6"):
        run(tmp_path, "--max_iters", "3", "--resume")
    assert run(tmp_path, "--max_iters", "6", "--resume").step == 6
