"""Gradient checkpointing that leaves batch-norm statistics alone when a block is run the second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(enabled: bool, owner: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`; if `enabled`, its activations are not kept but computed again in the backward pass.

    `owner` holds the batch norms that `function` runs: the second run repeats their mode of the first, which may have
    changed since, and does not count the batch in the running averages once more.
    """
    if not (enabled and torch.is_grad_enabled()):
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        norms = [part for part in owner.modules() if isinstance(part, _BatchNorm)]
        return nullcontext(), _replayed(norms, [norm.training for norm in norms])

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _replayed(norms: Sequence[_BatchNorm], modes: Sequence[bool]) -> Iterator[None]:
    before = [(norm.training, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, training in zip(norms, modes, strict=True):
        norm.training = training
        norm.momentum = 0.0  # the running averages keep their values; without them autograd would save fewer tensors
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, state in zip(norms, before, strict=True):
            norm.training, norm.momentum, norm.num_batches_tracked = state
