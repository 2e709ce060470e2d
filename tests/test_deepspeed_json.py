"""A DeepSpeed JSON of the user's own: what it adds is taken, what contradicts the settings is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from tests import toy_task
from training.deepspeed_config import deepspeed_config
from training.settings import TrainingSettings

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("clean_environment")


def written(path: Path, values: Any) -> str:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return str(path)


def config_of(path: str, **changes: Any) -> dict[str, Any]:
    return deepspeed_config(TrainingSettings(deepspeed_config=path, **changes), CPU, 1000)


def test_what_has_no_option_is_taken_and_the_rest_stays(tmp_path):
    path = written(
        tmp_path / "mine.json",
        {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 1.0,
            "zero_optimization": {
                "stage": 2,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "reduce_bucket_size": 12345,
                "allgather_bucket_size": "auto",
                "overlap_comm": True,
            },
            "fp16": {"enabled": "auto", "initial_scale_power": 12},
            "bf16": {"enabled": False},
            "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "betas": [0.9, 0.999], "eps": "auto"}},
            "wall_clock_breakdown": True,
        },
    )
    config = config_of(path)
    zero = config["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert (zero["reduce_bucket_size"], zero["overlap_comm"], config["wall_clock_breakdown"]) == (12345, True, True)
    assert zero["stage3_param_persistence_threshold"] == 20_000 and "allgather_bucket_size" not in zero
    assert not {"optimizer", "fp16", "bf16"} & set(config) and config["gradient_accumulation_steps"] == 1


def test_every_conflict_is_named_with_both_values_in_one_line(tmp_path):
    path = written(
        tmp_path / "mine.json",
        {
            "train_batch_size": 32,
            "gradient_accumulation_steps": 4,
            "gradient_clipping": 0.5,
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": True},
            "optimizer": {"type": "Lion", "params": {"lr": 0.1}},
            "scheduler": {"type": "WarmupLR"},
        },
    )
    with pytest.raises(InputError) as caught:
        config_of(path)
    for part in (
        "train_batch_size is 32, but --accumulation_steps with 1 rank(s) gives 1",
        "gradient_accumulation_steps is 4, but --accumulation_steps gives 1",
        "gradient_clipping is 0.5, but --clip gives 1.0",
        "zero_optimization.stage is 3, but --zero_stage gives 2",
        "bf16.enabled is true, but --precision gives false",
        'optimizer.type is "Lion", but --optimizer gives "AdamW"',
        "optimizer.params.lr is 0.1, but --learning_rate gives 0.0001",
        'scheduler.type is "WarmupLR", but the schedule of the script gives "WarmupCosineLR"',
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(path)


def test_the_same_as_the_settings_is_no_conflict(tmp_path):
    path = written(
        tmp_path / "mine.json",
        {
            "gradient_clipping": 1,
            "zero_optimization": {"stage": 3, "offload_param": {"device": "none"}},
            "bf16": {"enabled": True},
            "scheduler": {
                "type": "WarmupCosineLR",
                "params": {"total_num_steps": 10_000, "warmup_num_steps": 1000, "cos_min_ratio": 0.0},
            },
        },
    )
    config = config_of(path, zero_stage=3, precision="bf16")
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True} and "scheduler" not in config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "a DeepSpeed configuration is a JSON object"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "only cpu can be saved and resumed"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "zero_quantized_weights needs --zero_stage 3, not 2"),
        ({"zero_optimization": {"zero_hpz_partition_size": 8}}, "zero_hpz_partition_size needs --zero_stage 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, values, message):
    path = written(tmp_path / "mine.json", values)
    with pytest.raises(InputError, match=f"mine.json.*{message}"):
        config_of(path)
    with pytest.raises(InputError, match=r"--deepspeed_config gone.json: No such file"):
        config_of("gone.json")


def test_options_of_zero_plus_plus_reach_deepspeed_where_they_can_work(tmp_path, monkeypatch):
    quantized = {"zero_quantized_weights": True, "zero_quantized_gradients": True}
    path = written(tmp_path / "plus.json", {"zero_optimization": {**quantized, "zero_hpz_partition_size": 4}})
    monkeypatch.setattr("training.deepspeed_config.world_size", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    section = config_of(path, zero_stage=3)["zero_optimization"]
    assert section.items() >= {**quantized, "zero_hpz_partition_size": 4, "stage": 3}.items()
    monkeypatch.setattr("training.deepspeed_config.world_size", lambda: 6)
    with pytest.raises(InputError, match=r"plus.json: .*partition_size is 4: give a number of ranks that divides 6"):
        config_of(path, zero_stage=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="zero_quantized_weights needs DeepSpeed's kernels for CUDA"):
        config_of(path, zero_stage=3)
    off = {"zero_quantized_weights": False, "zero_hpz_partition_size": 1}
    assert (
        config_of(written(tmp_path / "off.json", {"zero_optimization": off}))["zero_optimization"].items()
        >= off.items()
    )


def run(run_dir: Path, *options: str) -> dict[str, torch.Tensor]:
    toy_task.main(["--run_dir", str(run_dir), "--dropout", "0.2", *options])
    saved = sorted((run_dir / "checkpoints").iterdir())
    return load_file(saved[-1] / "model" / "model.safetensors")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_with_the_optimiser_on_the_cpu_learns_the_same_and_resumes(tmp_path, stage):
    """Also small buckets; nothing is compiled, since the optimiser stays torch's."""
    section = {"stage": stage, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 64}
    path = written(tmp_path / "offload.json", {"zero_optimization": section})
    options = ["--zero_stage", str(stage)]
    plain = run(tmp_path / "plain", *options)
    options += ["--deepspeed_config", path]
    whole = run(tmp_path / "whole", *options)
    run(tmp_path / "parts", *options, "--terminate_at", "6")
    parts = run(tmp_path / "parts", *options, "--resume")
    for name, tensor in plain.items():
        torch.testing.assert_close(whole[name], tensor, rtol=0, atol=1e-6)
        assert torch.equal(parts[name], whole[name]), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_overlap_and_small_buckets_change_no_weight(tmp_path, stage):
    sizes = {"reduce_bucket_size": 64, "allgather_bucket_size": 64, "stage3_prefetch_bucket_size": 32}
    section = {"overlap_comm": True, "contiguous_gradients": True, "round_robin_gradients": False, **sizes}
    path = written(tmp_path / "overlap.json", {"zero_optimization": section})
    options = ["--zero_stage", str(stage), "--max_iters", "5", "--accumulation_steps", "2", "--tasks", "two"]
    plain = run(tmp_path / "plain", *options)
    overlapped = run(tmp_path / "overlapped", *options, "--deepspeed_config", path)
    for name, tensor in plain.items():
        torch.testing.assert_close(overlapped[name], tensor, rtol=0, atol=1e-6)


def test_what_deepspeed_itself_refuses_is_one_line_with_the_file(tmp_path):
    path = written(tmp_path / "odd.json", {"zero_optimization": {"reduce_bucket_size": "much"}})
    with pytest.raises(InputError, match=r"odd.json: DeepSpeed refuses it: .*reduce_bucket_size") as caught:
        run(tmp_path / "run", "--deepspeed_config", path)
    assert "\n" not in str(caught.value)
