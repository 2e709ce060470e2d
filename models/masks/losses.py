"""Losses of masks and of disease heads.

Each ignores what is not known, and is zero, still with a gradient, where nothing is known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.vocabulary import IGNORED_VOXEL

DICE_SMOOTH = 1e-7
VOXEL_AXES = (-3, -2, -1)


def masked_bce(logits: Tensor, target: Tensor, positive_weight: float | None = None) -> Tensor:
    """Mean binary cross-entropy over all voxels that are known.

    logits and target (..., X, Y, Z); target 0, 1 or -1 (ignored).  positive_weight: of voxels that are 1; None for 1.
    """
    known = target != IGNORED_VOXEL
    weight = None if positive_weight is None else torch.tensor(positive_weight, device=logits.device)
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), target.clamp(min=0).float(), reduction="none", pos_weight=weight
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def masked_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over masks of 1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s), p = sigmoid(logits), s = 1e-7.

    Sums run over the known voxels of one mask (V-Net's Dice, Milletari et al. 2016); a mask with none is left out of
    the mean.  logits and target (..., X, Y, Z); target 0, 1 or -1 (ignored).
    """
    known = target != IGNORED_VOXEL
    probability = logits.float().sigmoid() * known
    truth = target.clamp(min=0).float()  # squares of 0 and 1 are 0 and 1
    overlap = (probability * truth).sum(VOXEL_AXES)
    size = probability.square().sum(VOXEL_AXES) + truth.sum(VOXEL_AXES)
    losses = 1 - (2 * overlap + DICE_SMOOTH) / (size + DICE_SMOOTH)
    counted = known.flatten(-3).any(dim=-1)
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def mask_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of segmentation, (BCE, Dice), for logits and target (..., X, Y, Z)."""
    return masked_bce(logits, target), masked_dice(logits, target)


def part_mask_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`mask_loss` for volumes that are cut into S parts: logits and target (S, n, *voxels of a part) of n structures.

    The voxels of a structure are those of all its parts together, so the result is that of the whole volume.
    """
    return mask_loss(*by_structure(logits, target))


def by_structure(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both (S, n, *voxels of a part) -> (n, S, 1, voxels), with all parts of a structure behind its number."""
    first, second = (values.transpose(0, 1).flatten(2).unsqueeze(2) for values in (logits, target))
    return first, second


def weighted_bce(logits: Tensor, targets: Tensor, pos_weight: Tensor) -> Tensor:
    """Mean over the known diseases of w t log(1 + e^-l) + (1 - t) log(1 + e^l).

    logits and targets (..., n), NaN = not known; pos_weight (n,), the weight w of a positive.
    """
    known = targets.isfinite()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(),
        targets.nan_to_num(0.0).float(),
        pos_weight=pos_weight.to(logits.device).float(),
        reduction="none",
    )
    return (losses * known).sum() / known.sum().clamp(min=1)
