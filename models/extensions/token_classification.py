"""Classification by single tokens: a volume has what one of its tokens shows.

The mean of all tokens hardly changes with a finding that few of them hold, and mixes what is on the left with what is
on the right.  So the labels are also compared with each token, and the largest cosine stands for the volume: learning
from bags, of which it is known only that an instance is positive (max pooling, as Oquab et al. 2015 locate objects).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.text.contrastive import INITIAL_LABEL_SCALE, LARGEST_SCALE, bounded_exp

INITIAL_BIAS = -3.0  # the largest of some hundred cosines is above zero from the start


class TokenClassification(nn.Module):
    """Learned scale, which begins at `label_scale`, and bias of the largest cosine."""

    def __init__(self, label_scale: float = INITIAL_LABEL_SCALE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([label_scale]).log())
        self.bias = nn.Parameter(torch.full((1,), INITIAL_BIAS))

    def forward(self, cosines: Sequence[Tensor]) -> Tensor:
        """B volumes' cosines of tokens and labels, each (tokens, n), at least one token -> logits (B, n) float32."""
        largest = torch.stack([of_volume.float().amax(0) for of_volume in cosines])
        return largest * bounded_exp(self.log_scale[0].float(), LARGEST_SCALE) + self.bias.float()
