"""What the two 3D encoders share: patches as cubes of voxels, and the encoded volume.

Voxels in padding slices are set to 0 before anything looks at them, whatever they held, so that only the zeros of a
convolution's surroundings reach real voxels.  A 2D image is repeated along the slices until it fills one token: a 3D
network that was inflated from a 2D one then sees what the 2D one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume, VolumePatches, checked


@dataclass(frozen=True, kw_only=True)
class EncodedCubes(EncodedVolume):
    """Tokens are the cells of a patch: n = cells along (slices, x, y).

    skips: maps (P, C_i, x_i, y_i, z_i), the last one being the tokens again.  slice_marks (P, d): True in real slices.
    """

    slice_marks: Tensor

    @property
    def slices(self) -> int:
        return self.slice_marks.shape[1]

    @property
    def token_shape(self) -> tuple[int, int, int]:
        x, y, z = self.skips[-1].shape[2:]
        return z, x, y

    def excerpt(self) -> EncodedCubes:
        """The first patch."""
        return replace(
            self,
            tokens=self.tokens[:1],
            valid=self.valid[:1],
            skips=tuple(skip[:1] for skip in self.skips),
            slice_marks=self.slice_marks[:1],
            patch_grid=(1, 1, 1),
        )

    def deep_maps(self) -> list[Tensor]:
        return list(self.skips[1:])

    def part_masks(self, masks: Tensor) -> Tensor:
        z, x, y = self.patch_grid
        cubes = rearrange(masks, "n (x h) (y w) (z d) -> (z x y) n h w d", z=z, x=x, y=y)
        return cubes.to(self.tokens.device)


def voxel_cubes(volume: VolumePatches, config: VisionConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """-> voxels (P, 1, c0, c1, D) with zeros in padding, their marks (P, D) and the patches' own marks (P, d), bool.

    D is the depth of the crop, or for a 2D image (d = 1) that of one token.  Raises ValueError where shapes do not fit.
    """
    patches, marks, _ = checked(volume, config.crop_size, device)
    depth, edge = patches.shape[3], config.token_voxels[0]
    if depth not in (1, config.crop_size[2]):
        raise ValueError(
            f"patches of {depth} slices: {config.encoder} takes {config.crop_size[2]}, the depth of its crop, or 1 for "
            "a 2D image"
        )
    real = marks > 0
    voxels = (patches * real[:, None, None, :].to(patches.dtype)).unsqueeze(1)
    if depth == 1:
        return voxels.expand(-1, -1, -1, -1, edge), real.expand(-1, edge), real
    return voxels, real, real


def cells_with_content(marks: Tensor, cells: Sequence[int]) -> Tensor:
    """Slice marks (P, D) -> (P, n) bool for cells (slices, x, y) of a patch, True where one of their slices is real."""
    layers = marks.unflatten(1, (cells[0], -1)).any(-1)
    return layers.repeat_interleave(cells[1] * cells[2], dim=1)
