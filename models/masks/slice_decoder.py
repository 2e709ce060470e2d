"""2D1D's mask decoder: features for every pixel of a slice, made from its token and its feature maps alone.

Nothing here crosses slices, so masks can be learned on any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.folding import folded
from models.encoders.hybrid_2d1d import EncodedSlices
from models.encoders.positions import sinusoidal_positions
from models.encoders.recompute import recomputed
from models.masks.mask_decoder import PADDING_LOGIT, MaskDecoder, MaskPart, Memory, patch_places

SLICES_PER_CHUNK = 16  # decoded together; a slice needs about 60 MB of activations at full size


@dataclass(frozen=True, kw_only=True)
class SlicePart(MaskPart):
    """S slices: tokens (S, C), and the volume's feature maps, which hold those of the slices at `rows` (S,).

    blocks: the decoder's up-blocks, coarsest first, as they are or with their batch norms folded.
    """

    tokens: Tensor
    skips: tuple[Tensor, ...]
    rows: Tensor
    blocks: Sequence[nn.Module]


class PixelDecoder(MaskDecoder[EncodedSlices, SlicePart]):
    """UNETR's up-blocks (Hatamizadeh et al. 2022) in 2D: from one token a slice and the five skip maps to features.

    Names of sub-modules are those of the published weights.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config, memory_width=sum(config.skip_channels))
        stem, *stages = config.skip_channels
        self.decoder_vit = _up_block(stages[3], stages[3], config.inplane_grid)
        self.decoder1 = _up_block(stages[3], stages[2])
        self.decoder2 = _up_block(stages[2], stages[1])
        self.decoder3 = _up_block(stages[1], stages[0])
        self.decoder4 = _up_block(stages[0], stem)
        self.transp_conv = get_conv_layer(2, stem, config.mask_width, 2, 2, conv_only=True, is_transposed=True)

    def parts(self, encoded: EncodedSlices, only_real_slices: bool = True) -> Iterator[SlicePart]:
        """In training all slices, which share the batch statistics; in evaluation chunks of them.

        So memory beyond the masks themselves does not grow with the volume in evaluation.
        """
        chosen = encoded.valid if only_real_slices else torch.ones_like(encoded.valid)
        patches, slices = chosen.nonzero(as_tuple=True)
        places = torch.cat([patch_places(patches, encoded.patch_grid), slices[:, None]], dim=1)
        tokens, rows = encoded.tokens[chosen], encoded.slice_rows[chosen]
        blocks = self._blocks()
        step = max(len(rows), 1) if self.training else SLICES_PER_CHUNK
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            yield SlicePart(
                places=places[chunk], tokens=tokens[chunk], skips=encoded.skips, rows=rows[chunk], blocks=blocks
            )

    def _blocks(self) -> Sequence[nn.Module]:
        """Coarsest first; in evaluation their batch norms are folded, once for all chunks of slices."""
        blocks = (self.decoder_vit, self.decoder1, self.decoder2, self.decoder3, self.decoder4)
        return blocks if self.training or torch.is_grad_enabled() else [folded(block) for block in blocks]

    def memory(self, part: SlicePart) -> Memory:
        """The 8x8 (crop / 32) positions of each slice, with the channels of all five feature maps."""
        grid = self.config.inplane_grid
        pooled = [F.adaptive_avg_pool2d(skip[part.rows], grid) for skip in part.skips]
        values = torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)
        return Memory(values, sinusoidal_positions(grid, self.config.query_width))

    def features(self, part: SlicePart) -> Tensor:
        """-> (S, C, c0 / 2, c1 / 2)."""
        return self(part.tokens, part.skips, part.rows, part.blocks)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor], rows: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """tokens (S, C); skips: maps that hold the slices' features at `rows` (S,) -> (S, C, c0 / 2, c1 / 2)."""
        features = tokens[:, :, None, None]
        for block, skip in zip(blocks, reversed(skips), strict=True):
            features = recomputed(self.recomputes, block, _up, block, features, skip, rows)
        return features

    def logits(self, part: SlicePart, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (S, C, c0 / 2, c1 / 2), embeddings (S, n, mask width) -> mask logits (S, n, c0, c1)."""
        chunks = [
            recomputed(self.recomputes, self, self.products, *pair)
            for pair in zip(features.split(SLICES_PER_CHUNK), embeddings.split(SLICES_PER_CHUNK), strict=True)
        ]
        return torch.cat(chunks) if len(chunks) > 1 else chunks[0]

    def blank_masks(self, encoded: EncodedSlices, queries: int) -> tuple[Tensor, Tensor]:
        """Masks that lie in memory label by label and slice by slice, and their view (z, x, y, d, n, c0, c1)."""
        (z, x, y), (c0, c1, _) = encoded.patch_grid, self.config.crop_size
        masks = encoded.tokens.new_full((queries, z * encoded.slices, x * c0, y * c1), PADDING_LOGIT)
        return masks.permute(0, 2, 3, 1), rearrange(masks, "n (z d) (x h) (y w) -> z x y d n h w", z=z, x=x, y=y)


def _up_block(channels: int, output: int, factor: int | tuple[int, int] = 2) -> UnetrUpBlock:
    return UnetrUpBlock(2, channels, output, kernel_size=3, upsample_kernel_size=factor, norm_name="batch")


def _up(block: UnetrUpBlock, features: Tensor, skip_map: Tensor, rows: Tensor) -> Tensor:
    """features (S, C, h, w), brought up by the block's factor, joined with the map's `rows` (S,) and convolved."""
    if features.shape[-2:] == (1, 1):  # a transposed convolution of one position is a matrix product
        weight = block.transp_conv.conv.weight
        features = (features.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
    else:
        features = block.transp_conv(features)
    # Rows are taken here, not by the caller, so that a block that is recomputed keeps no copy of them.
    skip = skip_map.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    features = features.contiguous(memory_format=torch.channels_last)
    return block.conv_block(torch.cat([features, skip], dim=1))
