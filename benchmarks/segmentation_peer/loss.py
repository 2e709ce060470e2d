"""nnU-Net's loss, Dice and cross-entropy, for organs of which some were not contoured in a patient."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5


class AnnotatedLoss:
    """Dice + BCE of sigmoids, each organ for itself, without the organs that were not contoured.

    Dice is of a whole batch (nnU-Net's "batch Dice"), since a small patch lacks most organs.
    """

    def __init__(self) -> None:
        self.dice = DiceLoss(batch=True, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH)

    def __call__(self, logits: Tensor, truth: Tensor, annotated: Tensor) -> Tensor:
        """logits, truth: (b, n, w, h, d).  annotated: (b, n) bool.  Returns a scalar; 0 where nothing was annotated."""
        logits, known = logits.float(), annotated[..., None, None, None].to(truth.dtype)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(2, 3, 4))
        weights = annotated.to(entropy.dtype)
        organs = annotated.any(dim=0).to(entropy.dtype)
        dice = self.dice(logits.sigmoid() * known, truth * known).flatten()  # what is 0 in both adds to no sum
        return _mean(entropy, weights) + _mean(dice, organs)


def deep_loss(loss: AnnotatedLoss, outputs: Tensor, truth: Tensor, annotated: Tensor) -> Tensor:
    """The weighted mean over the outputs (b, s, n, w, h, d) of deep supervision, or (b, n, w, h, d) without.

    Weights fall by half from each output to the next coarser one, as nnU-Net's do.
    """
    if outputs.dim() == truth.dim():
        return loss(outputs, truth, annotated)
    weights = [0.5**level for level in range(outputs.shape[1])]
    parts = [weight * loss(outputs[:, level], truth, annotated) for level, weight in enumerate(weights)]
    return torch.stack(parts).sum() / sum(weights)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)
