"""The logarithm of Dice as the loss of masks, for structures that most samples do not show.

Dice itself has hardly a gradient where a mask is next to nothing, and where the truth is empty it pulls what is left of
the mask to zero.  A structure that is seen rarely can get stuck there: the larynx of OpenKBP did, at probabilities of
one in a million.  The gradient of the logarithm does not fade, and it weighs a structure by how badly it is drawn.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.vocabulary import IGNORED_VOXEL
from models.masks.losses import by_structure


def log_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over masks of -log(2 sum(p t) / (sum(p^2) + sum(t^2))), p = sigmoid(logits); a mask without truth counts 0.

    The term L_Dice of Wong et al. (3D segmentation with exponential logarithmic loss, 2018) with exponent 1 and the
    Dice of `models.masks.losses`.  Logits and target (S, n, *voxels of a part), target 0, 1 or -1 (ignored), as
    `part_mask_loss` takes them.
    """
    logits, target = (values.flatten(1) for values in by_structure(logits.float(), target))
    truth = target == 1
    present = truth.any(1)
    # the logarithm of sum(p t), also where p is too small for a float; of a mask without truth any finite number
    overlap = F.logsigmoid(logits).masked_fill(present[:, None] & ~truth, -torch.inf).logsumexp(1)
    size = (logits.sigmoid() * (target != IGNORED_VOXEL)).square().sum(1) + truth.sum(1)
    size = torch.where(present, size, 1.0)  # its logarithm would have no gradient at 0
    losses = torch.where(present, size.log() - overlap - math.log(2), 0.0)  # chosen so, no device is waited for
    return losses.sum() / max(len(target), 1)
