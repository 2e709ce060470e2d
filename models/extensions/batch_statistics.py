"""Running parts of a network on what is no sample, without a trace in its batch normalisation."""

from __future__ import annotations

from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics_kept(module: nn.Module):
    """Within it, batch normalisation uses its running statistics and leaves them alone."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
