"""Training masks on some slices of a volume: the 2D mask decoder works slice by slice, so a subset costs its share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.encoders.contract import EncodedVolume
from models.encoders.hybrid_2d1d import EncodedSlices

FOREGROUND_SHARE = 0.5  # of the chosen slices, from those that hold a structure (as nnU-Net oversamples foreground)


def sample_slices(encoded: EncodedVolume, masks: Tensor, count: int) -> EncodedVolume:
    """Keep ``count`` random slices of those that are not padding; the rest is no part of the volume any more.

    Args:
        encoded: of a 2D1D encoder, whose mask decoder works slice by slice.
        masks: targets (n, x*c0, y*c1, z*d), 0, 1 or -1.
        count: slices to keep; all stay where there are no more.

    Returns:
        The volume with fewer valid slices.

    Raises:
        TypeError: the volume is of a 3D encoder, whose mask decoder takes whole patches.
    """
    if not isinstance(encoded, EncodedSlices):
        raise TypeError("slices can be sampled for the 2D1D encoder alone: 3D mask decoders take whole patches")
    valid = encoded.valid
    if int(valid.sum()) <= count:
        return encoded
    foreground = torch.zeros_like(valid)
    foreground[valid] = encoded.part_masks((masks == 1).any(0, keepdim=True)).flatten(1).any(1)
    order = torch.rand(valid.shape, device=valid.device)
    first = _smallest(order.masked_fill(~foreground, torch.inf), int(count * FOREGROUND_SHARE)) & foreground
    rest = _smallest(order.masked_fill(~valid | first, torch.inf), count - int(first.sum()))
    return replace(encoded, valid=(first | rest) & valid)


def _smallest(values: Tensor, count: int) -> Tensor:
    """True at the ``count`` smallest entries."""
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.flatten().argsort()[:count]] = True
    return chosen.view(values.shape)
