"""The exact state of a run: what a checkpoint holds beside the model, and how it goes back.

DeepSpeed's own `load_checkpoint` unpickles whatever a file contains.  Here a rank's state is plain tensors and numbers,
read with `weights_only=True`: the optimiser's moments, the float32 weights they belong to, the model's buffers, the
loss scale of fp16.  Random states are not part of it: every micro-batch has its own seed.  The model's final format
plays no part in resuming, so it may store weights rounded or merged.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import torch

from datasets.errors import InputError
from training import zero3
from training.optimizer_groups import Group, check_groups, fingerprint, own_options
from training.precision import LossScale
from training.snapshot import copied

_IN_WORDS = {  # of what is kept as a hash
    "architecture": "the model is built otherwise, or other parts of it are trained",
    "frozen weights": "the weights that are not trained are others",
    "optimizer groups": "the optimiser has the weights in other groups: --optimizer, an option of Muon, or which parts "
    "have a rate of their own (as --attention_rate) has changed",
}
_LATER = ("weights of", "optimizer groups")  # what checkpoints of before do not tell
_BATCH = {  # of what follows from the number of ranks
    "sampler micro_batches_per_step": "a step had {then} micro-batches, counted over all ranks, and now has {now}: "
    "set --accumulation_steps to {then} divided by the number of ranks",
    "sampler micro_batches_per_draw": "a draw had {then} micro-batches, counted over all ranks, and now has {now}: "
    "give --draw_ranks {then}, which the number of ranks has to divide",
}


def capture(engine: Any, own: bool = False) -> dict[str, Any]:
    """This rank's state, of types that `torch.load(weights_only=True)` reads.

    own: with tensors of its own, on the CPU, that training does not change.
    """
    optimizer = engine.optimizer
    weights = [weight.detach() for weight in _optimized_weights(optimizer)]
    state = {
        "optimizer": _optimizer_state(optimizer),
        # copies: a partition is a view, and saving it would save all that it is a view of
        "weights": weights if own else copied(weights),
        "buffers": {name: buffer.detach() for name, buffer in engine.module.named_buffers()},
        "loss_scale": LossScale(engine).state(),
    }
    return copied(state) if own else state


class BeforeStep:
    """What a step changes before it changes the weights: buffers, as they are now."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    @torch.no_grad()
    def restore(self, model: torch.nn.Module) -> None:
        """Put them back, where a step was given up."""
        for name, buffer in model.named_buffers():
            buffer.copy_(self._buffers[name])


@torch.no_grad()
def restore(engine: Any, state: dict[str, Any], folder: Any) -> None:
    """Put back what `capture` gave, from the checkpoint `folder`, into an engine built in the same way.

    Options of the optimiser, as its weight decay, stay those of the run.  Raises InputError, before anything changes,
    where its weights lie in other groups.
    """
    optimizer = engine.optimizer
    groups = _inner(optimizer).param_groups
    weights = state["weights"], _optimized_weights(optimizer)
    check_groups(state["optimizer"]["param_groups"], groups, weights, folder)
    options = own_options(groups)
    LossScale(engine).restore(state.get("loss_scale", {}))  # checkpoints of before fp16 have none
    if zero3.is_stage_3(optimizer):
        zero3.restore(optimizer, state["weights"], state["optimizer"])
    else:
        for weight, saved in zip(_optimized_weights(optimizer), state["weights"], strict=True):
            weight.copy_(saved)
        if _is_stage_1_or_2(optimizer):
            optimizer.optimizer.load_state_dict(state["optimizer"])
            optimizer.update_lp_params()  # from the float32 partitions to the model's own weights, on all ranks
        else:
            optimizer.load_state_dict(state["optimizer"])
    for group, own in zip(_inner(optimizer).param_groups, options, strict=True):
        group.update(own)
    buffers = dict(engine.module.named_buffers())
    for name, saved in state["buffers"].items():
        buffers[name].copy_(saved)


def describe(
    model: torch.nn.Module, settings: dict[str, Any], sampler: dict[str, Any], groups: Sequence[Group]
) -> dict[str, Any]:
    """What has to be the same for a run to go on exactly; call it before the engine casts the weights.

    Frozen weights are not in the checkpoint, the script builds them again: a checksum over up to 256 elements of each
    tells whether it built the same ones.  groups: of the optimiser, whose flat states say nothing of what is in them.
    """
    shapes, checksum = hashlib.sha256(), 0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        trained = isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
        shapes.update(f"{name} {tuple(tensor.shape)} {trained}\n".encode())
        if isinstance(tensor, torch.nn.Parameter) and not trained:
            flat = tensor.detach().reshape(-1)
            probe = flat[:: max(1, flat.numel() // 256)].float().cpu().contiguous()
            checksum = zlib.crc32(probe.numpy().tobytes(), checksum)
    return {
        "settings": settings,
        "sampler": sampler,
        "weights of": _weights_of_parts(model),
        "architecture": shapes.hexdigest(),
        "frozen weights": checksum,
        "optimizer groups": fingerprint(model, groups),
    }


def _weights_of_parts(model: torch.nn.Module) -> dict[str, str]:
    """For each part of the model, by the first two words of its name, how many weights it has and trains."""
    counts: dict[str, list[int]] = {}
    for name, weight in model.named_parameters():
        count = counts.setdefault(".".join(name.split(".")[:2]), [0, 0])
        count[0] += weight.numel()
        count[1] += weight.numel() * weight.requires_grad
    return {part: f"{total} weights, {trained} of them trained" for part, (total, trained) in counts.items()}


def check_same(saved: dict[str, Any], current: dict[str, Any], folder: Any) -> None:
    """Raise InputError naming the first thing in which the run differs from the one that wrote the checkpoint.

    Checkpoints of before do not have "weights of" and "optimizer groups": then these are not compared.
    """

    def compare(then: Any, now: Any, name: str) -> None:
        if isinstance(then, dict) and isinstance(now, dict):
            for key in dict.fromkeys([*now, *then]):
                compare(then.get(key), now.get(key), f"{name} {key}".strip())
        elif then != now and not (name in _LATER and then is None):
            difference = _IN_WORDS.get(name, f"{name} was {then!r} and is now {now!r}")
            if name in _BATCH and then is not None:
                raise InputError(f"{folder}: cannot resume, {_BATCH[name].format(then=then, now=now)}")
            raise InputError(
                f"{folder}: cannot resume, {difference}; "
                "resume with what the run was started with, or begin a new run from the checkpoint's model folder"
            )

    compare(saved, current, "")


def _is_stage_1_or_2(optimizer: Any) -> bool:
    return hasattr(optimizer, "single_partition_of_fp32_groups")


def _optimizer_state(optimizer: Any) -> dict[str, Any]:
    if zero3.is_stage_3(optimizer):
        return zero3.optimizer_state(optimizer)
    return dict(_inner(optimizer).state_dict())


def _inner(optimizer: Any) -> Any:
    """Torch's optimiser, which ZeRO wraps."""
    return optimizer.optimizer if zero3.is_stage_3(optimizer) or _is_stage_1_or_2(optimizer) else optimizer


def _optimized_weights(optimizer: Any) -> list[torch.Tensor]:
    """The tensors that the optimiser steps: this rank's flat float32 partitions under ZeRO, else the parameters."""
    if zero3.is_stage_3(optimizer):
        return list(optimizer.fp32_partitioned_groups_flat)
    if _is_stage_1_or_2(optimizer):
        return list(optimizer.single_partition_of_fp32_groups)
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
