"""Taking off what all volumes have in common, before they are compared with texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningCentre(nn.Module):
    """x (B, C) less the running mean over all ranks in training: the bias of the layer behind it, kept in step.

    Tokens soon share a part many times as large as what tells volumes apart.  A cosine of them hardly differs then, and
    a learned bias follows the drift of that part too slowly.  (Caron et al. 2021 centre their embeddings in this way.)
    """

    MOMENTUM = 0.9

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """In training the batch joins the mean before it is taken off."""
        if self.training:
            self._update(x.detach().float().mean(0))
        return x - self.mean.to(x)

    @torch.no_grad()
    def _update(self, mean: Tensor) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        weight = 1 - self.MOMENTUM if bool(self.seen) else 1.0
        self.mean.lerp_(mean.to(self.mean), weight)
        self.seen += 1
