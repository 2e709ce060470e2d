"""Deep supervision: the encoder's own feature maps, and its tokens, are asked for the masks as well.

The mask decoder can find small findings in the finest maps and leave the deep ones, and with them the tokens that
reports, diagnoses and the language model are made of, without a trace of them.  So each map is asked for the same
masks at its own resolution (as nnU-Net's are, Isensee et al. 2021), and each token for those of its voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.vocabulary import IGNORED_VOXEL
from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume
from models.masks.losses import masked_bce, part_mask_loss
from models.text.contrastive import INITIAL_LABEL_SCALE

BACKGROUND_LOGIT = -3.0  # most cells hold none of the structures
TOKEN_POSITIVE_WEIGHT = 3.0
FEWEST_VOXELS = 8  # of a structure, in a cell that counts as holding it; a quarter of the cell where that is less


class DeepSupervision(nn.Module):
    """For each feature map, a linear layer from a label's text embedding to its weights of the map's channels.

    Tokens, and the volume as a whole, are compared with the label in the space of texts, where they will be read.

    label_scale: where the learned scale of the tokens' cosines begins.
    """

    def __init__(self, config: VisionConfig, label_scale: float = INITIAL_LABEL_SCALE) -> None:
        super().__init__()
        projections = [nn.Linear(config.query_width, width) for width in config.deep_widths]
        for projection in projections:  # text embeddings have length 1: logits of about unit variance
            nn.init.normal_(projection.weight, std=projection.out_features**-0.5)
            nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(projections)
        self.biases = nn.Parameter(torch.full((len(self.projections),), BACKGROUND_LOGIT))
        self.token_log_scale = nn.Parameter(torch.tensor([label_scale]).log())
        self.token_bias = nn.Parameter(torch.full((1,), BACKGROUND_LOGIT))
        self.presence_bias = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        encoded: EncodedVolume,
        queries: Tensor,
        masks: Tensor,
        similarity: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the feature maps ("deep_maps") and, with a similarity, of the tokens ("deep_tokens").

        Maps: the mean over them of masked BCE + Dice, each at the resolution of its map.  Tokens: masked BCE.  A
        structure is in few of the tokens, so those that hold it weigh more; Dice would leave such rare ones without a
        gradient in the beginning.

        queries (n, query width); masks (n, x*c0, y*c1, z*d), 0, 1 or -1 in the padding; similarity: tokens (..., C) and
        queries -> cosines (..., n).
        """
        *maps, tokens = encoded.deep_maps()
        scores = [
            torch.einsum("sc...,nc->sn...", features, projection(queries.to(self.biases))) + bias
            for features, projection, bias in zip(maps, self.projections, self.biases, strict=True)
        ]
        if similarity is not None:
            cosines = similarity(tokens.movedim(1, -1), queries).movedim(-1, 1)
            scores.append(cosines * self.token_log_scale.float().exp() + self.token_bias.float())
        targets = volume_targets(encoded, masks, [score.shape[2:] for score in scores])
        of_maps = [
            torch.add(*part_mask_loss(score, target))
            for score, target in zip(scores[: len(maps)], targets[: len(maps)], strict=True)
        ]
        losses = {"deep_maps": torch.stack(of_maps).mean()}
        if similarity is not None:
            losses["deep_tokens"] = masked_bce(scores[-1], targets[-1], TOKEN_POSITIVE_WEIGHT)
        return losses

    def presence_loss(self, scores: Tensor, masks: Tensor) -> Tensor:
        """BCE of which structures the volume has; scores (n,) of the volume as a whole, masks as for `forward`."""
        held = structures_held(masks).to(scores)
        return F.binary_cross_entropy_with_logits(scores + self.presence_bias.float(), held)


def structures_held(masks: Tensor) -> Tensor:
    """(n,) bool: which of the masks (n, ...) have a voxel."""
    return masks.flatten(1).amax(1) == 1


def volume_targets(encoded: EncodedVolume, masks: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
    """`cell_targets` of a volume's masks (n, x*c0, y*c1, z*d), whose padding is the same for all.

    Only structures that the volume holds are counted: of 48 lesions, sides and sites, a patient has few.
    """
    counted = structures_held(masks)
    counted[0] |= ~counted.any()  # one at least, for the padding
    targets = []
    for found in cell_targets(encoded.part_masks(masks[counted]), grids):
        target = found.new_zeros(len(found), len(masks), *found.shape[2:])
        target[:, counted] = found
        targets.append(target.masked_fill(found[:, :1] == IGNORED_VOXEL, IGNORED_VOXEL))
    return targets


def cell_targets(masks: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Masks (S, n, *voxels), 0, 1 or -1 -> for each grid, finest first, whether its cells hold the structures.

    The result (S, n, *cells) is 1 where a cell has `FEWEST_VOXELS`, 0 where it has fewer, -1 where nothing is known.
    """
    foreground, known = masks == 1, masks != IGNORED_VOXEL
    counted = 1  # voxels of a cell, or copies of them
    targets = []
    for grid in grids:  # what is counted once is added up
        counted *= prod(max(size // cells, 1) for size, cells in zip(foreground.shape[2:], grid, strict=True))
        foreground, known = _cell_counts(foreground, grid), _cell_counts(known, grid)
        voxels = prod(masks.shape[2:]) / prod(grid)
        held = (foreground * (voxels / counted) >= min(FEWEST_VOXELS, voxels / 4) - 0.01).to(masks.dtype)
        targets.append(held.masked_fill(known == 0, IGNORED_VOXEL))
    return targets


def _cell_counts(counts: Tensor, grid: Sequence[int]) -> Tensor:
    """(S, n, *sizes) -> (S, n, *grid), the sum of each cell, in integers, which are cheaper to pool than floats."""
    for axis, cells in enumerate(grid, start=2):
        if counts.shape[axis] < cells:  # a 2D image, which a 3D encoder repeats along the slices
            counts = counts.repeat_interleave(cells // counts.shape[axis], axis)
        counts = counts.unflatten(axis, (cells, -1)).sum(axis + 1, dtype=torch.int32)
    return counts
