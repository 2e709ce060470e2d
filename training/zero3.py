"""What ZeRO stage 3 needs beyond the lower stages: parts that stay whole, weights put together, states put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_stage_3(optimizer: Any) -> bool:
    """Whether a DeepSpeed engine's optimiser shares out the weights themselves over the ranks."""
    return hasattr(optimizer, "fp32_partitioned_groups_flat")


Hooks = dict[nn.Module, set[int]]


def hooks_of(model: nn.Module) -> Hooks:
    """The keys of the hooks of each module, taken before DeepSpeed adds its own; for `keep_whole`."""
    return {module: {*module._forward_pre_hooks, *module._forward_hooks} for module in model.modules()}


def keep_whole(engine: Any, partitioned: Sequence[nn.Module], own_hooks: Hooks) -> None:
    """Hold every weight outside the modules `partitioned` complete on every rank; every rank calls this.

    Weights that are shared out are put together when the module that owns them is called.  That leaves out code which
    reads a weight or calls a method other than `forward`, and it needs every rank to call the same modules in the same
    order, since DeepSpeed fetches ahead in the order of the step before.  A large language model keeps to both; what is
    around it does not, but is small.  So its modules lose the hooks that fetch, and its weights stay.  Their gradients
    and their state in the optimiser are shared out all the same.
    """
    inside = {module for part in partitioned for module in part.modules()} | {engine.module}
    for module, own in own_hooks.items():
        if module not in inside:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in set(hooks) - own:
                    del hooks[key]
    optimizer, shared = engine.optimizer, {id(weight) for module in partitioned for weight in module.parameters()}
    held = {id(weight) for weight in optimizer.persistent_parameters}
    for weight in engine.module.parameters():
        if id(weight) not in shared | held:
            weight.ds_persist = True
            optimizer.persistent_parameters.append(weight)
    _gather(optimizer.persistent_parameters)


def forget_gradients(optimizer: Any) -> None:
    """Set the gradients of a step that is done to zero; without effect on the other stages.

    DeepSpeed leaves them in place and overwrites those that the next step computes.  A weight without a gradient in
    that step, or in its first micro-batch, would get the old one again.
    """
    if is_stage_3(optimizer):
        optimizer.grad_partitions_flat_buffer.zero_()


@contextmanager
def whole_weights(engine: Any, is_main: bool) -> Iterator[None]:
    """Inside, the main rank's model has complete parameters, on the CPU; every rank enters and leaves together.

    The weights are put together one by one, so that a device holds no more than one of them beside its share.
    Nothing changes under the other stages, whose parameters are complete anyway.
    """
    if not is_stage_3(engine.optimizer):
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus

    copies: dict[int, nn.Parameter | None] = {}
    places: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in engine.module.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            places.append((module, name, weight))
            if id(weight) in copies:  # tied
                continue
            with GatheredParameters([weight], enabled=weight.ds_status != ZeroParamStatus.AVAILABLE):
                copies[id(weight)] = _copy(weight) if is_main else None
    try:
        if is_main:
            for module, name, weight in places:
                module._parameters[name] = copies[id(weight)]
        yield
    finally:
        for module, name, weight in places:
            module._parameters[name] = weight


def layout(optimizer: Any) -> tuple[list[list[int]], list[int]]:
    """Of each flat partition: the elements of the weights that it has pieces of, and the optimiser's group it is in."""
    lengths = [[weight.ds_numel for weight in weights] for weights in optimizer.fp16_groups]
    return lengths, [optimizer.sub_group_to_group_id[number] for number in range(len(lengths))]


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """The state of torch's optimiser, over this rank's flat float32 partitions."""
    optimizer._set_fp32_optimizer_param_groups()  # outside of a step DeepSpeed leaves its groups empty
    try:
        return optimizer.optimizer.state_dict()
    finally:
        optimizer._clear_fp32_optimizer_param_groups()


@torch.no_grad()
def restore(optimizer: Any, weights: Sequence[torch.Tensor], state: dict[str, Any]) -> None:
    """Put back this rank's float32 partitions and the state of torch's optimiser; every rank calls this."""
    optimizer._partition_all_parameters()
    for partition, saved in zip(optimizer.fp32_partitioned_groups_flat, weights, strict=True):
        partition.copy_(saved)
    optimizer._set_fp32_optimizer_param_groups()
    try:
        optimizer.optimizer.load_state_dict(state)
    finally:
        optimizer._clear_fp32_optimizer_param_groups()
    pairs = zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat, strict=True)
    for number, (own, exact) in enumerate(pairs):
        own.copy_(exact)  # the model's weights, in the type that it computes with
        optimizer._unflatten_partitioned_parameters(number)
    _gather(optimizer.persistent_parameters)


def _copy(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().to("cpu", copy=True), requires_grad=weight.requires_grad)


def _gather(weights: Sequence[Any]) -> None:
    if weights:  # parameters that DeepSpeed gave its methods
        weights[0].all_gather(list(weights))
