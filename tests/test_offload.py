"""`--offload`: what is kept on the CPU changes no weight; the device is the CPU too here, the way there DeepSpeed's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from tests import toy_task
from training.deepspeed_config import deepspeed_config
from training.settings import TrainingSettings

CPU = torch.device("cpu")


def run(run_dir: Path, *options: str) -> dict[str, torch.Tensor]:
    toy_task.main(["--run_dir", str(run_dir), "--tasks", "two", "--accumulation_steps", "2", *options])
    saved = sorted((run_dir / "checkpoints").iterdir())
    return load_file(saved[-1] / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("offload", "stage", "precision"),
    [
        ("optimizer", "1", "fp32"),
        ("optimizer", "2", "fp32"),
        ("optimizer", "3", "fp32"),
        ("parameters", "3", "fp32"),
        ("optimizer", "2", "bf16"),
        ("parameters", "3", "bf16"),
    ],
)
def test_weights_are_those_of_a_run_without_it_and_a_resumed_run_goes_on_exactly(tmp_path, offload, stage, precision):
    options = ["--zero_stage", stage, "--precision", precision]
    plain = run(tmp_path / "plain", *options)
    options += ["--offload", offload]
    whole = run(tmp_path / "whole", *options)
    run(tmp_path / "parts", *options, "--terminate_at", "13")
    parts = run(tmp_path / "parts", *options, "--resume")
    for name, tensor in plain.items():
        torch.testing.assert_close(whole[name], tensor, rtol=0, atol=1e-6 if precision == "fp32" else 2**-9)
        assert torch.equal(parts[name], whole[name]), name


@pytest.mark.parametrize(("offload", "stage", "stages"), [("optimizer", 0, "1 or 2 or 3"), ("parameters", 2, "3")])
def test_a_stage_that_shares_nothing_out_is_refused(offload, stage, stages):
    with pytest.raises(InputError, match=f"--offload {offload} needs --zero_stage {stages}, not {stage}"):
        TrainingSettings(offload=offload, zero_stage=stage).validate()


def test_a_json_that_contradicts_the_option_is_refused_and_one_that_adds_to_it_taken(tmp_path):
    path = tmp_path / "mine.json"
    settings = TrainingSettings(offload="optimizer", deepspeed_config=str(path))
    path.write_text('{"zero_optimization": {"offload_optimizer": {"pin_memory": true}}}')
    zero = deepspeed_config(settings, CPU, 100)["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    path.write_text('{"zero_optimization": {"offload_param": {"device": "cpu"}}}')
    with pytest.raises(InputError, match=r'offload_param\.device is "cpu", but --offload gives "none"'):
        deepspeed_config(settings, CPU, 100)
