"""2D1D's mask decoder: features for every pixel of a slice, and queries that look at the same slice.

A slice's mask for a query is the dot product of the two.  Nothing here crosses slices.  `QueryDecoder` and
`sinusoidal_positions` serve the 3D decoders too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from math import ceil

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.folding import folded
from models.encoders.hybrid_2d1d import EncodedSlices
from models.encoders.recompute import recomputed

SLICES_PER_CHUNK = 16  # decoded together; a slice needs about 60 MB of activations at full size
PADDING_LOGIT = -100.0  # written to slices that are not decoded: surely background, and finite in every float type

# (memory (S, m, skip channels), positions (m, query width), queries (n, query width), padding) -> (S, n, mask width)
MaskEmbeddings = Callable[..., Tensor]


class PixelDecoder(nn.Module):
    """UNETR's up-blocks in 2D: from one token a slice and the five skip maps to features of full resolution."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.crop_size, self.grid, self.query_width = config.crop_size, config.inplane_grid, config.query_width
        self.memory_width = sum(config.skip_channels)
        stem, *stages = config.skip_channels
        self.decoder_vit = _up_block(stages[3], stages[3], config.inplane_grid)
        self.decoder1 = _up_block(stages[3], stages[2])
        self.decoder2 = _up_block(stages[2], stages[1])
        self.decoder3 = _up_block(stages[1], stages[0])
        self.decoder4 = _up_block(stages[0], stem)
        self.transp_conv = get_conv_layer(2, stem, config.mask_width, 2, 2, conv_only=True, is_transposed=True)

    def decode(
        self, encoded: EncodedSlices, queries: Tensor, embed: MaskEmbeddings, only_real_slices: bool = True
    ) -> Tensor:
        """Mask logits (n, x*c0, y*c1, z*d) for queries (n, query width); see `VisionModel.decode_masks`.

        In evaluation slices are decoded in chunks, once for all queries, so memory beyond the output does not grow with
        the volume.  In training all slices share the batch statistics.
        """
        (z, x, y), (c0, c1, _) = encoded.patch_grid, self.crop_size
        chosen = encoded.valid if only_real_slices else torch.ones_like(encoded.valid)
        patch_index, slice_index = chosen.nonzero(as_tuple=True)

        # Label by label and slice by slice contiguous in memory; `place` names the axes of one slice of one patch.
        output = encoded.tokens.new_full((len(queries), z * encoded.slices, x * c0, y * c1), PADDING_LOGIT)
        place = rearrange(output, "n (z d) (x h) (y w) -> z x y d n h w", z=z, x=x, y=y)
        place_index = (patch_index // (x * y), patch_index // y % x, patch_index % y, slice_index)
        for chunk, logits in self._chunks(encoded, chosen, queries, embed):
            place[tuple(index[chunk] for index in place_index)] = logits.to(output.dtype)
        return output.permute(0, 2, 3, 1)

    def decode_parts(self, encoded: EncodedSlices, queries: Tensor, embed: MaskEmbeddings) -> Tensor:
        """Mask logits (S, n, c0, c1) of the slices that are not padding; see `VisionModel.decode_parts`."""
        return torch.cat([logits for _, logits in self._chunks(encoded, encoded.valid, queries, embed)])

    def _chunks(
        self, encoded: EncodedSlices, chosen: Tensor, queries: Tensor, embed: MaskEmbeddings
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits (s, n, c0, c1) of consecutive slices among the chosen (P, d), with their place in that order."""
        tokens, rows = encoded.tokens[chosen], encoded.slice_rows[chosen]
        step = max(len(rows), 1) if self.training else SLICES_PER_CHUNK
        blocks = self._blocks()
        for start in range(0, len(rows) if len(queries) else 0, step):
            chunk = slice(start, start + step)
            yield chunk, self._slice_logits(tokens[chunk], encoded.skips, rows[chunk], queries, embed, blocks)

    def _blocks(self) -> Sequence[nn.Module]:
        """Coarsest first; in evaluation their batch norms are folded, once for all chunks of slices."""
        blocks = (self.decoder_vit, self.decoder1, self.decoder2, self.decoder3, self.decoder4)
        return blocks if self.training or torch.is_grad_enabled() else [folded(block) for block in blocks]

    def _slice_logits(
        self,
        tokens: Tensor,
        skips: Sequence[Tensor],
        rows: Tensor,
        queries: Tensor,
        embed: MaskEmbeddings,
        blocks: Sequence[nn.Module],
    ) -> Tensor:
        """tokens (S, C), rows (S,) of the skip maps, queries (n, query width) -> (S, n, c0, c1)."""
        recompute = self.gradient_checkpointing and self.training
        embeddings = recomputed(recompute, self, partial(self._embeddings, embed), skips, rows, queries)
        features = self(tokens, skips, rows, blocks)
        parts = [
            recomputed(recompute, self, self.mask_logits, *pair)
            for pair in zip(features.split(SLICES_PER_CHUNK), embeddings.split(SLICES_PER_CHUNK), strict=True)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _embeddings(self, embed: MaskEmbeddings, skips: Sequence[Tensor], rows: Tensor, queries: Tensor) -> Tensor:
        """Each query looks at the 8x8 (crop / 32) positions of each slice -> (S, n, mask width)."""
        positions = sinusoidal_positions(self.grid, self.query_width)
        return embed(pool_skips(skips, rows, self.grid), positions, queries)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor], rows: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """tokens (S, C); skips: maps that hold the slices' features at `rows` (S,) -> (S, C, c0 / 2, c1 / 2).

        The last step, `transp_conv`, is left to `mask_logits`.
        """
        recompute = self.gradient_checkpointing and self.training
        features = tokens[:, :, None, None]
        for block, skip in zip(blocks, reversed(skips), strict=True):
            features = recomputed(recompute, block, _up, block, features, skip, rows)
        return features

    def mask_logits(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (S, C, c0 / 2, c1 / 2) of `forward`, embeddings (S, n, mask width) -> logits (S, n, c0, c1)."""
        return upsampled_products(features, embeddings, self.transp_conv.conv.weight)


def upsampled_products(features: Tensor, embeddings: Tensor, kernel: Tensor) -> Tensor:
    """Dot products of embeddings and the transposed convolution of features by a kernel that does not overlap itself.

    features (S, C, *sizes), embeddings (S, n, M), kernel (C, M, *factors) -> (S, n, *sizes times factors).  Each query
    is brought through the kernel in place of each voxel: the large map of M channels is never held.
    """
    factors, sizes = kernel.shape[2:], features.shape[2:]
    weights = torch.einsum("snm,cmk->snkc", embeddings.to(kernel.dtype), kernel.flatten(2))
    logits = (weights.flatten(1, 2) @ features.flatten(2)).unflatten(-1, sizes).unflatten(1, (-1, *factors))
    axes = len(factors)
    pairs = [axis for i in range(axes) for axis in (2 + axes + i, 2 + i)]
    full = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    return logits.permute(0, 1, *pairs).reshape(*logits.shape[:2], *full)


def _up_block(channels: int, output: int, factor: int | tuple[int, int] = 2) -> UnetrUpBlock:
    return UnetrUpBlock(2, channels, output, kernel_size=3, upsample_kernel_size=factor, norm_name="batch")


def _up(block: UnetrUpBlock, features: Tensor, skip_map: Tensor, rows: Tensor) -> Tensor:
    if features.shape[-2:] == (1, 1):  # a transposed convolution of one position is a matrix product
        weight = block.transp_conv.conv.weight
        features = (features.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
    else:
        features = block.transp_conv(features)
    # Rows are taken here, not by the caller, so that a block that is recomputed keeps no copy of them.
    skip = skip_map.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    features = features.contiguous(memory_format=torch.channels_last)
    return block.conv_block(torch.cat([features, skip], dim=1))


class QueryLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward, without self-attention; `norm1` is in the weights and unused."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None = None) -> Tensor:
        """queries (S, n, C), keys and values (S, m, C), padding (S, m) True where not to look -> (S, n, C)."""
        normed = self.norm2(queries)
        attended = self.multihead_attn(normed, keys, values, key_padding_mask=padding, need_weights=False)[0]
        queries = queries + self.dropout(attended)
        hidden = self.dropout(F.relu(self.linear1(self.norm3(queries))))
        return queries + self.dropout(self.linear2(hidden))


class QueryDecoder(nn.Module):
    """The stack of query layers with its final norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QueryLayer(config.query_width, config.query_heads, config.query_feedforward, config.query_dropout)
            for _ in range(config.query_layers)
        )
        self.norm = nn.LayerNorm(config.query_width)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """queries (S, n, C), memory (S, m, C), positions (m, C) added to the keys only -> (S, n, C).

        Where `padding` (S, m) is True no query looks.
        """
        keys = memory + positions
        for layer in self.layers:
            queries = layer(queries, keys, memory, padding)
        return self.norm(queries)


def pool_skips(skips: Sequence[Tensor], rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average-pool the maps' `rows` (S,) to `grid` and join their channels -> (S, grid positions, sum of channels)."""
    pooled = [F.adaptive_avg_pool2d(skip[rows], grid) for skip in skips]
    return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)


@lru_cache(maxsize=8)
def sinusoidal_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Positions in a grid of any number of axes as in the positional-encodings package -> (product of grid, width).

    Each axis has its share of the channels, rounded up to an even number; what is then too many is cut off at the end.
    Within a share, sin and cos of position / 10000^(2i / share) stand side by side for each i.
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
