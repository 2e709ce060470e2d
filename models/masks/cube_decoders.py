"""Mask decoders of the 3D encoders: features for every voxel of a patch, and queries that look at the same patch.

Both are made of MONAI's UNETR blocks (Hatamizadeh et al. 2022).  They normalise each patch by itself (instance norm,
as UNETR does), so patches are decoded one by one in training as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor, nn

from models.configuration import INPLANE_STRIDE, VisionConfig
from models.encoders.cubes import EncodedCubes, cells_with_content
from models.encoders.recompute import recomputed
from models.masks.slice_decoder import PADDING_LOGIT, MaskEmbeddings, sinusoidal_positions, upsampled_products

NORM = ("instance", {"affine": True})


class CubeDecoder(nn.Module, ABC):
    """Base of the two: decodes masks patch by patch.

    A subclass gives `forward`, `transp_conv`, the last step to `mask_width` channels at full resolution, and
    `memory_levels`, how many of the coarsest feature maps the queries look at.
    """

    memory_levels: int

    def __init__(self, config: VisionConfig, memory_width: int, features: int, factor: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.config = config
        self.memory_width = memory_width
        self.transp_conv = get_conv_layer(
            3, features, config.mask_width, factor, factor, conv_only=True, is_transposed=True
        )

    @abstractmethod
    def forward(self, *skips: Tensor) -> Tensor:
        """The encoder's maps of patches (S, C_i, x_i, y_i, z_i) -> what `transp_conv` takes."""

    def decode(
        self, encoded: EncodedCubes, queries: Tensor, embed: MaskEmbeddings, only_real_slices: bool = True
    ) -> Tensor:
        """Mask logits (n, x*c0, y*c1, z*d) for queries (n, query width); see `VisionModel.decode_masks`."""
        (z, x, y), (c0, c1, _) = encoded.patch_grid, self.config.crop_size
        real = encoded.slice_marks if only_real_slices else torch.ones_like(encoded.slice_marks)
        output = encoded.tokens.new_full((len(queries), x * c0, y * c1, z * encoded.slices), PADDING_LOGIT)
        place = rearrange(output, "n (x h) (y w) (z d) -> z x y n h w d", z=z, x=x, y=y)
        chosen = real.any(1).nonzero().flatten()
        step = max(len(chosen), 1) if torch.is_grad_enabled() else 1  # one write, for each would copy the gradient
        for indices in chosen.split(step) if len(queries) else ():
            logits = torch.stack([self._patch_logits(encoded, index, queries, embed) for index in indices.tolist()])
            logits = logits.masked_fill(~real[indices, None, None, None, :], PADDING_LOGIT)
            place[indices // (x * y), indices // y % x, indices % y] = logits.to(output.dtype)
        return output

    def decode_parts(self, encoded: EncodedCubes, queries: Tensor, embed: MaskEmbeddings) -> Tensor:
        """Mask logits (P, n, c0, c1, d) of the patches; see `VisionModel.decode_parts`."""
        return encoded.part_masks(self.decode(encoded, queries, embed))

    def _patch_logits(self, encoded: EncodedCubes, index: int, queries: Tensor, embed: MaskEmbeddings) -> Tensor:
        """-> (n, c0, c1, d) of one patch."""
        recompute = self.gradient_checkpointing and self.training
        skips = [skip[index : index + 1] for skip in encoded.skips]
        marks = encoded.slice_marks[index : index + 1]
        look = partial(self._embeddings, embed, marks)
        embeddings = recomputed(recompute, self, look, queries, *skips[-self.memory_levels :])
        features = self(*skips)
        logits = recomputed(recompute, self, self.mask_logits, features, embeddings)[0]
        return logits if logits.shape[-1] == encoded.slices else logits.mean(-1, keepdim=True)  # a repeated 2D image

    def mask_logits(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (S, C, x, y, z) of `forward`, embeddings (S, n, mask width) -> logits (S, n, X, Y, Z)."""
        return upsampled_products(features, embeddings, self.transp_conv.conv.weight)

    def _embeddings(self, embed: MaskEmbeddings, marks: Tensor, queries: Tensor, *maps: Tensor) -> Tensor:
        """Each query looks at the crop / 32 positions of a patch that are not padding -> (S, n, mask width)."""
        x, y = self.config.inplane_grid
        grid = (x, y, max(marks.shape[1] // INPLANE_STRIDE, 1))
        pooled = torch.cat([F.adaptive_avg_pool3d(level, grid) for level in maps], dim=1)
        memory = rearrange(pooled, "s c x y z -> s (z x y) c")
        positions = sinusoidal_positions((grid[2], x, y), self.config.query_width)
        content = cells_with_content(marks, (grid[2], x, y))
        return embed(memory, positions, queries, ~content & content.any(1, keepdim=True))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recomputed(self.gradient_checkpointing and self.training, block, block, *inputs)


class UNETRDecoder3D(CubeDecoder):
    """ViT3D's: UNETR, for tokens of any power of two.

    Level k has stride 2^k.  Its skip is the k-th of the hidden states brought up to that stride, and at level 0 the
    voxels themselves.
    """

    def __init__(self, config: VisionConfig) -> None:
        levels, width = config.decoder_levels, config.vit_width
        super().__init__(config, levels * width, config.vit_decoder_width, factor=1)
        self.memory_levels = levels
        channels = [config.vit_decoder_width * 2**level for level in range(levels)]
        block = {"kernel_size": 3, "norm_name": NORM, "res_block": True}
        self.voxel_encoder = UnetrBasicBlock(3, 1, channels[0], stride=1, **block)
        self.skip_encoders = nn.ModuleList(
            UnetrPrUpBlock(
                3, width, channels[k], levels - k - 1, stride=1, upsample_kernel_size=2, conv_block=True, **block
            )
            for k in range(1, levels)
        )
        self.decoders = nn.ModuleList(
            UnetrUpBlock(3, incoming, outgoing, upsample_kernel_size=2, **block)
            for incoming, outgoing in zip([width, *channels[:0:-1]], channels[::-1], strict=True)
        )

    def forward(self, voxels: Tensor, *states: Tensor) -> Tensor:
        """voxels (S, 1, X, Y, Z), hidden states (S, C, x, y, z), first to last -> (S, decoder width, X, Y, Z)."""
        *hidden, features = states
        skips = [self._run(self.voxel_encoder, voxels)]
        skips += [self._run(encoder, state) for encoder, state in zip(self.skip_encoders, hidden, strict=True)]
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            features = self._run(decoder, features, skip)
        return features


class UNetDecoder3D(CubeDecoder):
    """ResNet3D's: from the coarsest map up through the others, each step twice the resolution."""

    memory_levels = 5

    def __init__(self, config: VisionConfig) -> None:
        channels = config.skip_channels
        super().__init__(config, sum(channels), channels[0], factor=2)
        self.decoders = nn.ModuleList(
            UnetrUpBlock(3, incoming, outgoing, kernel_size=3, upsample_kernel_size=2, norm_name=NORM)
            for incoming, outgoing in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )

    def forward(self, *skips: Tensor) -> Tensor:
        """The five maps of a ResNet, of stride 2 to 32 -> (S, stem width, X / 2, Y / 2, Z / 2)."""
        *finer, features = skips
        for decoder, skip in zip(self.decoders, reversed(finer), strict=True):
            features = self._run(decoder, features, skip)
        return features
