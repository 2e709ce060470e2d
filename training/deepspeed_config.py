"""DeepSpeed's configuration and engine, from the training settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from datasets.errors import InputError
from models.parameters import hidden_matrices
from training import zero3
from training.deepspeed_json import merged, read_json
from training.distributed import world_size
from training.muon import MuonWithAdamW, split_for_muon
from training.precision import cast_model, resolve_precision
from training.settings import TrainingSettings

WEIGHT_LAYOUT = "aligned"  # names the order of `in_aligned_order`


def deepspeed_config(settings: TrainingSettings, device: torch.device, trainable: int) -> dict[str, Any]:
    """The configuration dictionary; `trainable` is the number of trainable weights, which bounds the gradient bucket.

    The optimiser and the learning rate are not in it: the loop passes torch's AdamW and sets the rate of every step.

    Raises InputError where `settings.deepspeed_config` cannot be read, or contradicts the settings.
    """
    precision = resolve_precision(settings, device)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "gradient_clipping": settings.clip,
        "steps_per_print": None,
        "zero_optimization": {
            "stage": settings.zero_stage,
            # DeepSpeed allocates a whole bucket, by default of 500 M elements, which a small model never fills
            "reduce_bucket_size": min(500_000_000, max(trainable, 1)),
            "overlap_comm": False,
            # biases and norms are not worth a message each; weight matrices, also small ones, are shared out
            "stage3_param_persistence_threshold": 20_000,
        },
        "zero_allow_untested_optimizer": True,
    }
    if precision == "fp16":
        config["fp16"] = {
            "enabled": True,
            "loss_scale": 0,  # 0 is dynamic
            "initial_scale_power": settings.loss_scale_power,
            "loss_scale_window": settings.loss_scale_window,
        }
    if precision == "bf16":
        # skips the update where a gradient is not finite, so that the loop can stop with the weights still good
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        if settings.zero_stage == 2 and settings.accumulation_steps > 1:
            config["data_types"] = {"grad_accum_dtype": "fp32"}  # a sum of many bf16 gradients loses the small ones
    if precision == "autocast":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if settings.offload != "none":
        zero = config["zero_optimization"]
        zero["offload_optimizer"] = {"device": "cpu"}
        if settings.offload == "parameters":
            zero["offload_param"] = {"device": "cpu"}
        # torch's AdamW steps on the CPU too; DeepSpeed's own for the CPU would be compiled, and be another sum
        config["zero_force_ds_cpu_optimizer"] = False
    if settings.deepspeed_config:
        path = settings.deepspeed_config
        config = merged(config, read_json(path), settings, world_size(), path)
    if settings.zero_stage == 0 and config.get("torch_autocast", {}).get("dtype") in (None, "bfloat16"):
        config["gradient_clipping"] = 0.0  # `update_weights` clips by the norm that it checks; fp16 is unscaled before
    return config


def in_aligned_order(parameters: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """The parameters with the larger power of two among the factors of their sizes first, else as they were.

    ZeRO lays the weights of a group out end to end, and cuDNN's batch norm crashes on CUDA where a weight behind a
    scalar begins in the middle of a vector register's 16 bytes.  In this order each begins at a multiple of its power.
    """
    return sorted(parameters, key=lambda parameter: -(parameter.numel() & -parameter.numel()))


def optimizer_groups(
    model: torch.nn.Module, settings: TrainingSettings, parameter_groups: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The groups that the optimiser of `build_engine` gets, each with its weights in the order that ZeRO lays out.

    Groups that it gave are given as they are.
    """
    groups = parameter_groups
    if groups is None:
        groups = [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
    groups = [{**group, "params": in_aligned_order(group["params"])} for group in groups]
    if settings.optimizer != "Muon":
        return groups
    return split_for_muon(groups, hidden_matrices(model, settings.muon_mask_decoder), settings.muon_rate)


def build_engine(
    model: torch.nn.Module,
    settings: TrainingSettings,
    device: torch.device,
    parameter_groups: list[dict[str, Any]] | None = None,
) -> Any:
    """Wrap `model`, in place, into a DeepSpeed engine with AdamW, or with Muon for its `hidden_matrices`.

    parameter_groups: as torch's optimisers take them; None trains every parameter that requires a gradient.

    Under ZeRO-3 the weights of `model.zero3_modules` are shared out over the ranks, all others stay whole on each; a
    model without that attribute stays whole altogether.  In fp16 and bf16 the model is cast as by `cast_model`.

    Raises InputError where nothing is trained, or for a DeepSpeed JSON that cannot be used.
    """
    import deepspeed

    groups = optimizer_groups(model, settings, parameter_groups)
    trainable = sum(parameter.numel() for group in groups for parameter in group["params"])
    if trainable == 0:
        raise InputError("the model has no trainable weights: nothing to train")
    kind = MuonWithAdamW if settings.optimizer == "Muon" else torch.optim.AdamW
    optimizer = kind(
        groups,
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    hooks = zero3.hooks_of(model)
    config = deepspeed_config(settings, device, trainable)
    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    except ValueError as error:  # pydantic's, of an entry that DeepSpeed does not know or take
        if not settings.deepspeed_config:
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{settings.deepspeed_config}: DeepSpeed refuses it: {reason}") from error
    if settings.zero_stage == 3:
        zero3.keep_whole(engine, getattr(model, "zero3_modules", ()), hooks)
    cast_model(model, resolve_precision(settings, device))
    return engine
