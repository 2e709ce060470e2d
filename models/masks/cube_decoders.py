"""Mask decoders of the 3D encoders: features for every voxel of a patch, made from its feature maps alone.

Both are made of MONAI's UNETR blocks (Hatamizadeh et al. 2022).  They normalise each patch by itself (instance norm,
as UNETR does), so patches are decoded one by one in training as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import Tensor, nn

from models.configuration import INPLANE_STRIDE, VisionConfig
from models.encoders.cubes import EncodedCubes, cells_with_content
from models.encoders.positions import sinusoidal_positions
from models.encoders.recompute import recomputed
from models.masks.mask_decoder import PADDING_LOGIT, MaskDecoder, MaskPart, Memory, patch_places

NORM = ("instance", {"affine": True})


@dataclass(frozen=True, kw_only=True)
class CubePart(MaskPart):
    """One patch: its feature maps (1, C_i, x_i, y_i, z_i) and slice marks (1, d), True in real slices.

    decoded (1, d): True in the slices whose logits are asked for.
    """

    skips: tuple[Tensor, ...]
    slice_marks: Tensor
    decoded: Tensor


class CubeDecoder(MaskDecoder[EncodedCubes, CubePart]):
    """Base of the two.  A subclass gives `forward`, and how many of the coarsest maps the queries look at."""

    memory_levels: int

    def __init__(self, config: VisionConfig, memory_width: int, features: int, factor: int) -> None:
        super().__init__(config, memory_width)
        self.transp_conv = get_conv_layer(
            3, features, config.mask_width, factor, factor, conv_only=True, is_transposed=True
        )

    @abstractmethod
    def forward(self, *skips: Tensor) -> Tensor:
        """The encoder's maps of patches (S, C_i, x_i, y_i, z_i) -> what `transp_conv` takes."""

    def parts(self, encoded: EncodedCubes, only_real_slices: bool = True) -> Iterator[CubePart]:
        """The patches, one by one; with `only_real_slices` those that are more than padding."""
        decoded = encoded.slice_marks if only_real_slices else torch.ones_like(encoded.slice_marks)
        chosen = decoded.any(1).nonzero().flatten()
        places = patch_places(chosen, encoded.patch_grid)
        for number, patch in enumerate(chosen.tolist()):
            row = slice(patch, patch + 1)
            yield CubePart(
                places=places[number : number + 1],
                skips=tuple(skip[row] for skip in encoded.skips),
                slice_marks=encoded.slice_marks[row],
                decoded=decoded[row],
            )

    def memory(self, part: CubePart) -> Memory:
        """The crop / 32 positions of a patch, with the channels of its coarsest maps; padding is not looked at."""
        x, y = self.config.inplane_grid
        z = max(part.slice_marks.shape[1] // INPLANE_STRIDE, 1)
        pooled = [F.adaptive_avg_pool3d(level, (x, y, z)) for level in part.skips[-self.memory_levels :]]
        values = rearrange(torch.cat(pooled, dim=1), "s c x y z -> s (z x y) c")
        content = cells_with_content(part.slice_marks, (z, x, y))
        padding = ~content & content.any(1, keepdim=True)  # a patch of padding alone is looked at everywhere
        return Memory(values, sinusoidal_positions((z, x, y), self.config.query_width), padding)

    def features(self, part: CubePart) -> Tensor:
        """-> (1, C, x, y, z), of the voxels' resolution or half of it."""
        return self(*part.skips)

    def logits(self, part: CubePart, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (1, C, x, y, z), embeddings (1, n, mask width) -> mask logits (1, n, c0, c1, d)."""
        logits = recomputed(self.recomputes, self, self.products, features, embeddings)
        if logits.shape[-1] != part.decoded.shape[1]:  # the encoder repeated a 2D image along the slices
            logits = logits.mean(-1, keepdim=True)
        return logits.masked_fill(~part.decoded[:, None, None, None, :], PADDING_LOGIT)

    def blank_masks(self, encoded: EncodedCubes, queries: int) -> tuple[Tensor, Tensor]:
        """Masks, and their view (z, x, y, n, c0, c1, d)."""
        (z, x, y), (c0, c1, _) = encoded.patch_grid, self.config.crop_size
        masks = encoded.tokens.new_full((queries, x * c0, y * c1, z * encoded.slices), PADDING_LOGIT)
        return masks, rearrange(masks, "n (x h) (y w) (z d) -> z x y n h w d", z=z, x=x, y=y)

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recomputed(self.recomputes, block, block, *inputs)


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
        self.voxel_encoder = UnetrBasicBlock(3, 1, channels[0], kernel_size=3, stride=1, norm_name=NORM, res_block=True)
        self.skip_encoders = nn.ModuleList(
            UnetrPrUpBlock(
                3,
                width,
                channels[k],
                num_layer=levels - k - 1,
                kernel_size=3,
                stride=1,
                upsample_kernel_size=2,
                norm_name=NORM,
                conv_block=True,
                res_block=True,
            )
            for k in range(1, levels)
        )
        self.decoders = nn.ModuleList(
            UnetrUpBlock(3, incoming, outgoing, kernel_size=3, upsample_kernel_size=2, norm_name=NORM, res_block=True)
            for incoming, outgoing in zip([width, *channels[:0:-1]], channels[::-1], strict=True)
        )

    def forward(self, *skips: Tensor) -> Tensor:
        """Voxels (S, 1, X, Y, Z) and hidden states (S, C, x, y, z), first to last -> (S, decoder width, X, Y, Z)."""
        voxels, *hidden, features = skips
        fine = [self._run(self.voxel_encoder, voxels)]
        fine += [self._run(encoder, state) for encoder, state in zip(self.skip_encoders, hidden, strict=True)]
        for decoder, skip in zip(self.decoders, reversed(fine), strict=True):
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
