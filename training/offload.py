"""What keeping the optimiser on the CPU (ZeRO-Offload) asks of a training step."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def is_offloaded(engine: Any) -> bool:
    """Whether a DeepSpeed engine steps its optimiser on the CPU."""
    return bool(engine.zero_use_cpu_optimizer())


def with_every_weight(loss: Tensor, engine: Any) -> Tensor:
    """The same loss as one of every trained weight; without effect where nothing is offloaded.

    Otherwise DeepSpeed takes the gradients of a step to the CPU with the last micro-batch, and only those of weights
    that this one used: what an earlier micro-batch, of another task, gave to other weights is lost, and those weights
    step by what an earlier step left there.  A gradient of zero is what they would have without offloading.

    Weights that ZeRO-3 has shared out are left out: they belong to modules that every batch runs.
    """
    if not is_offloaded(engine):
        return loss
    for weight in engine.module.parameters():
        if weight.requires_grad and weight.numel():
            loss = loss + 0 * weight.flatten()[0].to(loss.dtype)
    return loss
