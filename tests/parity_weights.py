"""Weights by rule: every tensor follows from its name and shape alone (tests/data/parity/README.md)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def rule_tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The float32 tensor (int64 for batch counters) of a state-dict name; the longest-known suffix decides."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    if name.endswith(".beta"):
        return torch.zeros(tuple(shape))
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), dtype=np.float32)
    values = torch.from_numpy(np.atleast_1d(noise)).view(tuple(shape))
    if name.endswith("running_mean"):
        return values.mul_(0.1)
    if name.endswith("running_var"):
        return values.abs_().mul_(0.1).add_(1)
    if name.endswith(("q_scale", "k_scale", ".gamma")):
        return values.mul_(0.05).add_(1)
    if name.endswith("bias"):
        return values.mul_(0.02)
    if values.ndim == 1:
        return values.mul_(0.05).add_(1)
    return values.mul_((shape[0] / values.numel()) ** 0.5)


def rule_state_dict(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """All tensors of a {name: shape} table."""
    return {name: rule_tensor(name, shape) for name, shape in shapes.items()}
