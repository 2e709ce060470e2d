"""A DeepSpeed JSON of the user's own, merged over the configuration that the training settings give.

What has an option of its own must agree with that option, be "auto", or not be there: two places that say different
things would leave it open which one a run follows.  Everything else is taken: offloading to the CPU, sizes of buckets,
overlap of communication, activation checkpointing, profiling.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from datasets.errors import InputError
from datasets.json_text import parse_json
from training.settings import TrainingSettings

AUTO = "auto"
GROUP_SIZE = "zero_hpz_partition_size"
ZERO_PLUS_PLUS = (
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
    GROUP_SIZE,
)


def read_json(path: str | Path) -> dict[str, Any]:
    """The file's entries; raises InputError, naming it, where it is absent or no JSON object."""
    try:
        values = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--deepspeed_config {path}: {error.strerror or error}; give a JSON file") from error
    except ValueError as error:
        raise InputError(f"--deepspeed_config {path}: not a JSON file ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"--deepspeed_config {path}: a DeepSpeed configuration is a JSON object, {{...}}")
    return values


def merged(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], settings: TrainingSettings, ranks: int, path: str
) -> dict[str, Any]:
    """`ours`, what `deepspeed_config` gives, with the entries of `theirs` that have no option of their own.

    Raises InputError naming every entry that contradicts an option, with both values, or one that cannot work here.
    """
    theirs = _without_auto(theirs)
    conflicts = [*_conflicts(ours, theirs, settings, ranks)]
    if conflicts:
        raise InputError(f'{path}: {"; ".join(conflicts)}. Make them equal, write "auto", or leave them out')
    for name in ("offload_optimizer", "offload_param"):
        if (_entry(theirs, f"zero_optimization.{name}.device") or "none") not in ("none", "cpu"):
            raise InputError(f"{path}: zero_optimization.{name}.device: only cpu can be saved and resumed here")
    _check_zero_plus_plus(theirs, settings, ranks, path)
    kept = {name: value for name, value in theirs.items() if name not in ("optimizer", "scheduler", "bfloat16", "amp")}
    config = _joined(ours, kept)
    for name in ("fp16", "bf16"):
        if name not in ours:
            config.pop(name, None)
    # the optimiser stays torch's AdamW, which steps what is kept on the CPU there, without a compiler
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    return config


def _check_zero_plus_plus(theirs: Mapping[str, Any], settings: TrainingSettings, ranks: int, path: str) -> None:
    """Raise InputError for an option of ZeRO++ that DeepSpeed would pass over, or that cannot work here."""
    asked = {name: _entry(theirs, f"zero_optimization.{name}") for name in ZERO_PLUS_PLUS}
    for name, value in asked.items():
        if value in (None, False, 0) or (name == GROUP_SIZE and value == 1):
            continue
        if settings.zero_stage != 3:
            raise InputError(f"{path}: zero_optimization.{name} needs --zero_stage 3, not {settings.zero_stage}")
        if name != GROUP_SIZE and not torch.cuda.is_available():
            raise InputError(
                f"{path}: zero_optimization.{name} needs DeepSpeed's kernels for CUDA; leave it out on a CPU"
            )
        if name == GROUP_SIZE and (not isinstance(value, int) or ranks % value):
            raise InputError(
                f"{path}: zero_optimization.{name} is {_shown(value)}: give a number of ranks that divides {ranks}"
            )


def _conflicts(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], settings: TrainingSettings, ranks: int
) -> Iterator[str]:
    """What `theirs` has otherwise than the options say, each as a clause that names both values."""
    batch = settings.micro_batch * settings.accumulation_steps * ranks
    in_batch = "--batch_size" if hasattr(settings, "batch_size") else "--accumulation_steps"
    bf16, fp16 = "bf16" in ours, "fp16" in ours
    options: dict[str, tuple[str, Any]] = {
        "train_batch_size": (f"{in_batch} with {ranks} rank(s)", batch),
        "train_micro_batch_size_per_gpu": ("--micro_batch", settings.micro_batch),
        "gradient_accumulation_steps": (in_batch, settings.accumulation_steps),
        "gradient_clipping": ("--clip", settings.clip),
        "zero_optimization.stage": ("--zero_stage", settings.zero_stage),
        "bf16.enabled": ("--precision", bf16),
        "bfloat16.enabled": ("--precision", bf16),
        "fp16.enabled": ("--precision", fp16),
        "amp.enabled": ("--precision", False),
        "torch_autocast.enabled": ("--precision", "torch_autocast" in ours),
        "optimizer.type": ("--optimizer", settings.optimizer),
        "optimizer.params.lr": ("--learning_rate", settings.learning_rate),
        "optimizer.params.betas": ("--betas", list(settings.betas)),
        "optimizer.params.eps": ("--eps", settings.eps),
        "optimizer.params.weight_decay": ("--weight_decay", settings.weight_decay),
        "scheduler.type": ("the schedule of the script", "WarmupCosineLR"),
        "scheduler.params.total_num_steps": ("--schedule_updates or --max_iters", settings.schedule_steps),
        "scheduler.params.warmup_num_steps": ("--warmup", settings.warmup_steps),
        "scheduler.params.warmup_type": ("--warmup_shape", settings.warmup_shape),
        "scheduler.params.cos_min_ratio": ("--min_lr_ratio", settings.min_lr_ratio),
    }
    if fp16:
        options["fp16.initial_scale_power"] = ("--loss_scale_power", settings.loss_scale_power)
        options["fp16.loss_scale_window"] = ("--loss_scale_window", settings.loss_scale_window)
    if settings.offload != "none":
        options["zero_optimization.offload_optimizer.device"] = ("--offload", "cpu")
        params = "cpu" if settings.offload == "parameters" else "none"
        options["zero_optimization.offload_param.device"] = ("--offload", params)
    for name, (option, expected) in options.items():
        value = _entry(theirs, name)
        if name == "optimizer.type" and value == "Adam":
            value = "AdamW"  # DeepSpeed's Adam decouples the weight decay
        if value is not None and value != expected:
            yield f"{name} is {_shown(value)}, but {option} gives {_shown(expected)}"


def _shown(value: Any) -> str:
    return json.dumps(value)


def _entry(values: Mapping[str, Any], name: str) -> Any:
    """The entry of a dotted name; None where it, or what it lies in, is not there."""
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            kept[name] = _without_auto(value)
        elif value != AUTO:
            kept[name] = value
    return kept


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    result = dict(below)
    for name, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _joined(result[name], value) if nested else value
    return result
