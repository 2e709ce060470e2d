"""A running mean of volumes' embeddings, taken off before they are compared with texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningCentre(nn.Module):
    """Subtract the running mean of x (B, C), over all batches and ranks seen in training (as Caron et al., DINO, 2021).

    In training, tokens come to share a part many times as large as what tells volumes apart; the cosines of volumes and
    texts then hardly differ.  That part drifts, and a learned bias would follow too slowly.
    """

    MOMENTUM = 0.9
    mean: Tensor
    seen: Tensor

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
