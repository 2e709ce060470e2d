"""The 2D1D hybrid encoder: a 2D ResNet on every slice, then attention in the plane and along the slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from models.configuration import VisionConfig
from models.encoders.attention import ContinuousPositionBias, Transformer
from models.encoders.contract import EncodedVolume, VolumeEncoder, VolumePatches, checked
from models.encoders.resnet import SliceResNet, slice_vectors


@dataclass(frozen=True, kw_only=True)
class EncodedSlices(EncodedVolume):
    """One token a slice of a patch: tokens (P, d, C), valid (P, d), False in padding slices.

    skips: the five feature maps (rows, C_i, h_i, w_i), one row for each *distinct* slice, so that padding is held
    once.  slice_rows (P, d): the row of each slice.
    """

    slice_rows: Tensor

    @property
    def slices(self) -> int:
        return self.tokens.shape[1]

    @property
    def token_shape(self) -> tuple[int, int, int]:
        return self.slices, 1, 1

    def excerpt(self) -> EncodedSlices:
        """One slice of one patch."""
        rows = self.slice_rows[:1, :1]
        return replace(
            self, tokens=self.tokens[:1, :1], valid=self.valid[:1, :1], slice_rows=rows, patch_grid=(1, 1, 1)
        )

    def deep_maps(self) -> list[Tensor]:
        """Of the slices that are not padding, (S, C_i, h_i, w_i); a token stands for a whole slice of a patch."""
        rows = self.slice_rows[self.valid]
        return [*(skip[rows] for skip in self.skips[1:]), self.tokens[self.valid][:, :, None, None]]

    def part_masks(self, masks: Tensor) -> Tensor:
        z, x, y = self.patch_grid
        slices = rearrange(masks, "n (x h) (y w) (z d) -> (z x y) d n h w", z=z, x=x, y=y, d=self.slices)
        return slices[self.valid.to(masks.device)].to(self.tokens.device)


class Encoder2D1D(VolumeEncoder):
    """The published encoder; names of sub-modules are those of the published weights."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, heads, head_width = config.token_width, config.attention_heads, config.attention_head_width
        self.crop_size = config.crop_size
        self.resnet2D = SliceResNet(config)
        self.enc_spatial_transformer = Transformer(width, config.spatial_depth, heads, head_width)
        self.enc_temporal_transformer = Transformer(width, config.temporal_depth, heads, head_width)
        self.spatial_rel_pos_bias = ContinuousPositionBias(config.position_bias_width, heads)

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep only the inputs of ResNet blocks and transformer layers for the backward pass."""
        self.resnet2D.gradient_checkpointing = enabled
        self.enc_spatial_transformer.gradient_checkpointing = enabled
        self.enc_temporal_transformer.gradient_checkpointing = enabled

    def encode_many(self, volumes: Sequence[VolumePatches]) -> list[EncodedSlices]:
        """Encode volumes of any grids; the distinct slices of all go through the ResNet as one batch.

        Raises ValueError where a volume's shapes do not fit each other or the configuration's crop size.
        """
        device = self.resnet2D.conv1.weight.device
        volumes = [checked(volume, self.crop_size, device) for volume in volumes]
        merged = [merge_zero_slices(rearrange(volume.patches, "p h w d -> (p d) 1 h w")) for volume in volumes]
        counts = [len(distinct) for distinct, _ in merged]
        levels = self.resnet2D(torch.cat([distinct for distinct, _ in merged]))
        # Each volume has maps of its own: to take rows of maps that all share would cost, in the backward pass of every
        # volume, a gradient of the size of the batch.
        skips_of = zip(*(level.split(counts) for level in levels), strict=True)
        encoded = []
        for volume, skips, (_, rows) in zip(volumes, skips_of, merged, strict=True):
            slice_rows = rows.view(volume.slice_marks.shape)
            valid = volume.slice_marks > 0
            grid = volume.patch_grid
            tokens = self._attend(slice_vectors(skips[-1])[slice_rows], valid, grid)
            encoded.append(
                EncodedSlices(tokens=tokens, valid=valid, skips=skips, slice_rows=slice_rows, patch_grid=grid)
            )
        return encoded

    def _attend(self, tokens: Tensor, valid: Tensor, patch_grid: tuple[int, int, int]) -> Tensor:
        """(P, d, C) slice vectors of one volume -> tokens of the same shape."""
        z, x, y = patch_grid
        video_shape = (z * tokens.shape[1], x, y)
        tokens = rearrange(tokens, "(z x y) d c -> (z d) (x y) c", z=z, x=x, y=y)
        tokens = self.enc_spatial_transformer(tokens, video_shape, bias=self.spatial_rel_pos_bias(x, y))
        tokens = rearrange(tokens, "t n c -> n t c")
        key_mask = rearrange(valid, "(z x y) d -> (x y) (z d)", z=z, x=x, y=y)
        tokens = self.enc_temporal_transformer(tokens, video_shape, key_mask=key_mask)
        return rearrange(tokens, "(x y) (z d) c -> (z x y) d c", z=z, x=x, y=y)


def merge_zero_slices(slices: Tensor) -> tuple[Tensor, Tensor]:
    """(S, 1, H, W) -> the slices without repeats of the all-zero one, and for each of S its row among them.

    Padding is exactly 0, and the network gives equal slices equal features, so one of them stands for all.  It is told
    by content, not by the marks: a marked slice of zeros is the same slice.  The zero slice comes last.
    """
    has_content = slices.flatten(1).any(dim=1)
    rows = has_content.cumsum(0) - 1
    if bool(has_content.all()):
        return slices, rows
    kept = slices[has_content]
    rows = rows.masked_fill(~has_content, len(kept))
    return torch.cat([kept, slices.new_zeros(1, *slices.shape[1:])]), rows
