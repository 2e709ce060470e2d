"""fp16 with its loss scale, in DeepSpeed on the CPU, which computes it slowly but in the same way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from datasets.errors import InputError
from tests import toy_task
from training import checkpoint_store
from training.deepspeed_config import deepspeed_config
from training.precision import LossScale, cast_model, resolve_precision
from training.settings import TrainingSettings
from training.update import NonFiniteLossError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FP16 = ["--precision", "fp16", "--log_interval", "1"]


@pytest.fixture(autouse=True)
def _half_on_the_cpu(monkeypatch):
    """DeepSpeed asks for a fast fp16, which not every CPU has; the environment is left as it was."""
    before = dict(os.environ)
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
    yield
    os.environ.clear()
    os.environ.update(before)


def run(run_dir: Path, *options: str):
    return toy_task.main(["--run_dir", str(run_dir), *FP16, *options])


def history(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").open()]


def test_auto_is_what_the_script_says_on_cuda_and_float32_on_the_cpu():
    for kind in ("fp16", "bf16"):
        settings = TrainingSettings(cuda_precision=kind)
        assert (resolve_precision(settings, CUDA), resolve_precision(settings, CPU)) == (kind, "fp32")
    with pytest.raises(InputError, match="no float32 copy of fp16 weights"):
        resolve_precision(TrainingSettings(precision="fp16", zero_stage=0), CPU)


def test_the_configuration_has_the_published_loss_scale():
    section = deepspeed_config(TrainingSettings(cuda_precision="fp16"), CUDA, 1000)
    assert section["fp16"] == {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000}
    assert "bf16" not in section
    section = deepspeed_config(TrainingSettings(cuda_precision="fp16"), CPU, 1000)
    assert "fp16" not in section and "bf16" not in section


def test_weights_and_what_is_saved_are_cast_and_derived_constants_are_not():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    model.register_buffer("inv_freq", torch.ones(3), persistent=False)
    cast_model(model, "fp16")
    assert model[0].weight.dtype == model[1].running_var.dtype == torch.float16
    assert model[1].num_batches_tracked.dtype == torch.int64 and model.inv_freq.dtype == torch.float32


class Overflow(torch.autograd.Function):
    """The identity, with a gradient that fp16 cannot hold where `too_large(scale of the loss)`."""

    @staticmethod
    def forward(context, value, limit):
        context.limit = limit
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * (float("inf") if float(gradient) > context.limit else 1.0), None


@pytest.fixture
def overflows_above(monkeypatch):
    """A limit of the loss scale above which every gradient overflows."""

    def put(limit: float) -> None:
        plain = toy_task.ToyModel.forward

        def forward(self, batch):
            output = plain(self, batch)
            output.loss = Overflow.apply(output.loss, limit)
            return output

        monkeypatch.setattr(toy_task.ToyModel, "forward", forward)

    return put


def test_a_gradient_too_large_for_fp16_skips_the_update_and_training_goes_on(tmp_path, overflows_above):
    overflows_above(2.0**13)
    result = run(tmp_path)
    assert (result.status, result.step) == ("finished", 12)
    rows = history(tmp_path)
    skipped = [row["train/skipped_updates"] for row in rows]
    assert 3 <= sum(skipped) <= 6 and skipped[:3] == [1, 1, 1] and not any(skipped[7:])
    assert rows[0]["train/loss_scale"] == 2**16 and rows[-1]["train/loss_scale"] <= 2**13
    assert ["train/gradient_norm" in row for row in rows] == [not one for one in skipped]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


def weights(run_dir: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step_{step:06d}" / "model" / "model.safetensors")


def test_with_nothing_left_to_halve_the_samples_are_named(tmp_path, overflows_above):
    overflows_above(0.5)  # below the smallest scale, 1
    with pytest.raises(NonFiniteLossError, match=r"samples sine-\d+: the gradient"):
        run(tmp_path, "--loss_scale_power", "1", "--save_interval", "1")
    assert checkpoint_store.latest_complete(tmp_path) is not None, "earlier updates were skipped, not refused"


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path):
    with pytest.raises(NonFiniteLossError, match="loss nan"):
        run(tmp_path, "--bad_index", "3", "--max_iters", "24")


def test_a_run_in_fp16_resumes_to_the_same_bits(tmp_path, overflows_above):
    overflows_above(2.0**13)
    run(tmp_path / "whole")
    run(tmp_path / "parts", "--terminate_at", "3")  # while the scale is still falling
    run(tmp_path / "parts", "--resume")
    expected = weights(tmp_path / "whole")
    assert {tensor.dtype for tensor in expected.values()} == {torch.float16}
    for name, tensor in weights(tmp_path / "parts").items():
        assert torch.equal(tensor, expected[name]), name
    scales = [[row["train/loss_scale"] for row in history(tmp_path / name)] for name in ("whole", "parts")]
    assert scales[0] == scales[1]


def test_fp16_learns_as_float32_does(tmp_path):
    run(tmp_path / "half", "--micro_batch", "4", "--loss_scale_power", "8")  # none is skipped
    toy_task.main(["--run_dir", str(tmp_path / "single"), "--log_interval", "1", "--micro_batch", "4"])
    for half, single in zip(history(tmp_path / "half"), history(tmp_path / "single"), strict=True):
        assert half["train/loss"] == pytest.approx(single["train/loss"], rel=0.02, abs=0.002)


def test_a_fixed_scale_is_no_dynamic_one():
    scale = LossScale(SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=SimpleNamespace(dynamic=False))))
    assert not scale.is_dynamic and not scale.can_fall() and scale.state() == {}
    assert LossScale(SimpleNamespace(optimizer=SimpleNamespace())).value == 1
