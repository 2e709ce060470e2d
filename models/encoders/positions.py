"""Fixed sinusoidal positions on a grid: of the slice or patch that queries look at, and of ViT3D's tokens."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def sinusoidal_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Positions in a grid of any number of axes -> (product of grid, width), the last axis of the grid fastest.

    The formula is that of the positional-encodings package (after Vaswani et al. 2017).  Each axis has its share of the
    channels, rounded up to an even number; what is then too many is cut off at the end.  Within a share, sin and cos of
    position / 10000^(2i / share) stand side by side for each i.
    """
    share = 2 * ceil(width / (2 * len(grid)))
    frequencies = 1.0 / 10000 ** (torch.arange(0, share, 2).float() / share)
    parts = []
    for axis, size in enumerate(grid):
        angles = torch.arange(size).float()[:, None] * frequencies
        encoded = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        along = [size if other == axis else 1 for other in range(len(grid))]
        parts.append(encoded.view(*along, share).expand(*grid, share))
    return torch.cat(parts, dim=-1)[..., :width].flatten(0, -2)
