"""What every encoder is, takes and gives; the rest of the code knows an encoder by these three alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn


class VolumePatches(NamedTuple):
    """What an encoder takes: patches (P, c0, c1, d), P = z*x*y in z-major order; slice marks (P, d), 0 = padding."""

    patches: Tensor
    slice_marks: Tensor
    patch_grid: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class EncodedVolume(ABC):
    """What an encoder gives, once for all answers about a volume.

    tokens (P, n, C): those of a patch in the order (slices, in-plane x, in-plane y).  valid (P, n): False for a token
    of padding slices alone.  skips: feature maps for the mask decoder, finest first; their layout is between an
    encoder and its mask decoder.  patch_grid: (z, x, y).
    """

    tokens: Tensor
    valid: Tensor
    skips: tuple[Tensor, ...]
    patch_grid: tuple[int, int, int]

    @property
    @abstractmethod
    def slices(self) -> int:
        """Slices of one patch, d."""

    @property
    @abstractmethod
    def token_shape(self) -> tuple[int, int, int]:
        """A patch's n tokens as a volume (slices, x, y)."""

    @abstractmethod
    def excerpt(self) -> EncodedVolume:
        """A volume of its own made of the smallest part that masks can be decoded for."""

    @abstractmethod
    def deep_maps(self) -> list[Tensor]:
        """Feature maps (S, C_i, *cells) of the volume's S parts, all but the finest, and the tokens as the last one.

        A part is a slice or a cube, whatever the encoder's networks take as one.
        """

    @abstractmethod
    def part_masks(self, masks: Tensor) -> Tensor:
        """Masks (n, x*c0, y*c1, z*d) cut to the parts of `deep_maps` -> (S, n, *voxels of a part)."""

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(z*d, x*h, y*w): the shape of all tokens seen as a volume."""
        sizes = zip(self.patch_grid, self.token_shape, strict=True)
        depth, height, width = (patches * tokens for patches, tokens in sizes)
        return depth, height, width


class VolumeEncoder(nn.Module, ABC):
    """Base of the encoders, each built from a VisionConfig."""

    @abstractmethod
    def encode_many(self, volumes: Sequence[VolumePatches]) -> Sequence[EncodedVolume]:
        """Encode volumes of any grids as one batch, in their order.

        Raises ValueError where a volume's shapes do not fit each other or the configuration.
        """

    @abstractmethod
    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep only the inputs of the network's blocks for the backward pass, and compute the rest again."""


def as_grid(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Three sizes, of a grid or shape, as ints; raises ValueError for another number of them."""
    first, second, third = (int(size) for size in sizes)
    return first, second, third


def as_volume(values: Tensor, patch_grid: Sequence[int], token_shape: Sequence[int]) -> Tensor:
    """One row a token: (P, n, ...) -> (z*d, x*h, y*w, ...), the tokens of all patches in their places."""
    z, x, y = patch_grid
    d, h, w = token_shape
    return rearrange(values, "(z x y) (d h w) ... -> (z d) (x h) (y w) ...", z=z, x=x, y=y, d=d, h=h, w=w)


def checked(volume: VolumePatches, crop_size: Sequence[int], device: torch.device) -> VolumePatches:
    """The volume on `device`, its grid three ints.

    Raises ValueError where its shapes do not fit each other or the in-plane crop size, or where no slice is real.
    """
    patches, slice_marks, patch_grid = volume
    grid = as_grid(patch_grid)
    inplane = tuple(crop_size[:2])
    if patches.ndim != 4 or tuple(patches.shape[1:3]) != inplane or len(patches) != prod(grid):
        raise ValueError(
            f"patches of shape {tuple(patches.shape)} do not fit grid (z, x, y) {grid} and in-plane crop {inplane}"
        )
    if slice_marks.shape != (patches.shape[0], patches.shape[3]):
        raise ValueError(f"slice marks {tuple(slice_marks.shape)} do not fit patches {tuple(patches.shape)}")
    if not bool((slice_marks > 0).any()):
        raise ValueError("all slices are marked as padding: there is nothing to encode")
    return VolumePatches(patches.to(device, non_blocking=True), slice_marks.to(device, non_blocking=True), grid)
