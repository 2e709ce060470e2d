"""Any-resolution patches: a volume of any size becomes equal crops for the encoder, and its masks go along.

The steps are those of the published loader: choose a grid of crops, resize the volume into it, pad around the centre,
split.  The default reproduces how the released weights were trained, with its two odd size rules (see `resized_shape`);
`resize="isotropic"` keeps the proportions of the volume instead, and "shrink" its size too where there is room.  The
way back is `datasets.volume.restore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from datasets.vocabulary import IGNORED_VOXEL
from datasets.volume.preprocessing import RESIZE_MODES

Size3 = tuple[int, int, int]

CROP_SIZE: Size3 = (256, 256, 32)
PATCH_MAX = 6


class PatchGeometry(Protocol):
    """What data need to know of an encoder: the size of its crops, their limit, and how many tokens they make."""

    @property
    def crop_size(self) -> Size3:
        """One patch in voxels (in-plane x, in-plane y, slices)."""

    @property
    def patch_max(self) -> int:
        """Most patches that a volume is cut into."""

    def token_grid(self, patch_grid: Size3, depth: int) -> Size3:
        """Visual tokens (slices, x, y) of a volume with patch grid (z, x, y) and `depth` slices a patch."""


@dataclass(frozen=True)
class AnyresPlacement:
    """Where a volume lies in its padded grid of crops; all sizes in voxels, in the order (H, W, D)."""

    original_shape: Size3
    resized_shape: Size3
    padded_shape: Size3
    pad_before: Size3
    crop_size: Size3
    patch_grid: Size3  # (z, x, y), the order of the patches

    @property
    def content(self) -> tuple[slice, slice, slice]:
        """The box of the padded grid that holds the resized volume."""
        first, second, third = (slice(b, b + n) for b, n in zip(self.pad_before, self.resized_shape, strict=True))
        return first, second, third

    def for_content(self, shape: tuple[int, ...]) -> AnyresPlacement:
        """The placement of a content (w, h, d) that augmentation may have turned by 90 degrees in plane.

        It is this one, or where the shape has its first two axes exchanged, the one with its grid turned likewise.
        Raises ValueError for a content that fits neither.
        """
        if shape == self.resized_shape:
            return self
        z, x, y = self.patch_grid
        turned = AnyresPlacement(
            original_shape=_exchanged(self.original_shape),
            resized_shape=_exchanged(self.resized_shape),
            padded_shape=_exchanged(self.padded_shape),
            pad_before=_exchanged(self.pad_before),
            crop_size=self.crop_size,
            patch_grid=(z, y, x),
        )
        if shape != turned.resized_shape or self.crop_size[0] != self.crop_size[1]:
            raise ValueError(f"content of shape {shape} does not lie in a grid made for {self.resized_shape}")
        return turned

    def to_dict(self) -> dict[str, list[int]]:
        """Lists for JSON; `from_dict` gives an equal placement."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[int]]) -> AnyresPlacement:
        """What `to_dict` wrote."""
        return cls(**{name: _size3(value, name, least=0) for name, value in values.items()})


@dataclass
class PatchedVolume:
    """A volume as encoder input: patches (P, c0, c1, c2) and slice_marks (P, c2), 1 for a real slice, 0 for padding."""

    patches: torch.Tensor
    slice_marks: torch.Tensor
    placement: AnyresPlacement

    @property
    def patch_grid(self) -> Size3:
        """Number of patches along (z, x, y); the first axis of `patches` is ordered z-major, then x, then y."""
        return self.placement.patch_grid

    def to(self, *args: Any, **kwargs: Any) -> PatchedVolume:
        """A copy whose tensors went through `Tensor.to`."""
        return replace(self, patches=self.patches.to(*args, **kwargs), slice_marks=self.slice_marks.to(*args, **kwargs))


def select_grid(shape: Sequence[int], crop_size: Sequence[int] = CROP_SIZE, patch_max: int = PATCH_MAX) -> Size3:
    """Size (X, Y, Z) of the grid of crops that keeps most of a volume of `shape` (H, W, D).

    Largest effective resolution wins, then least waste, then the first in order.  A shape of depth 1 is a
    2D image: its grid has depth 1.
    """
    shape, crop = _size3(shape, "shape"), _crop_for(shape, crop_size)
    if patch_max < 1:
        raise ValueError(f"patch_max must be at least 1, got {patch_max}")
    best, best_rank = crop, (-1, 0)  # any candidate is better
    for i in range(1, 10):
        for j in range(1, 10):
            deepest = patch_max // (i * j)
            for k in range(1, (min(1, deepest) if shape[2] == 1 else deepest) + 1):
                candidate: Size3 = (crop[0] * i, crop[1] * j, crop[2] * k)
                scale = min(c / n for c, n in zip(candidate, shape, strict=True))
                effective = min(math.prod(int(n * scale) for n in shape), math.prod(shape))
                rank = (effective, effective - math.prod(candidate))
                if rank > best_rank:
                    best, best_rank = candidate, rank
    return best


def resized_shape(shape: Sequence[int], target: Sequence[int], resize: str = "published") -> Size3:
    """Size (w, h, d) to which a volume of `shape` is resized inside the grid `target`.

    "published" is the rule of the released weights: its second branch scales the depth by the first axis' ratio, and
    any tie (every volume with square slices) falls to the last branch, which fills the depth.  "isotropic" scales all
    three axes by the smallest ratio.  "shrink" does so with a volume that is too large, and leaves any other as it is.
    """
    height, width, depth = _size3(shape, "shape")
    target = _size3(target, "target")
    ratio_w, ratio_h, ratio_d = target[0] / height, target[1] / width, target[2] / depth
    if resize not in RESIZE_MODES:
        raise ValueError(f"resize must be one of {', '.join(RESIZE_MODES)}, got {resize!r}")

    def fit(size: int, ratio: float, axis: int) -> int:
        return min(math.ceil(size * ratio), target[axis])

    if resize != "published":
        ratio = min(ratio_w, ratio_h) if depth == 1 else min(ratio_w, ratio_h, ratio_d)
        ratio = min(ratio, 1.0) if resize == "shrink" else ratio
        scaled = (min(max(round(n * ratio), 1), t) for n, t in zip((height, width, depth), target, strict=True))
        new_w, new_h, new_d = scaled
        return new_w, new_h, 1 if depth == 1 else new_d
    if depth == 1:
        if ratio_w < ratio_h:
            return target[0], fit(width, ratio_w, 1), 1
        return fit(height, ratio_h, 0), target[1], 1
    if ratio_w < ratio_h and ratio_w < ratio_d:
        return target[0], fit(width, ratio_w, 1), fit(depth, ratio_w, 2)
    if ratio_h < ratio_w and ratio_h < ratio_d:
        return fit(height, ratio_h, 0), target[1], fit(depth, ratio_w, 2)
    return fit(height, ratio_d, 0), fit(width, ratio_d, 1), target[2]


def plan(
    shape: Sequence[int],
    crop_size: Sequence[int] = CROP_SIZE,
    patch_max: int = PATCH_MAX,
    resize: str = "published",
) -> AnyresPlacement:
    """Placement of a volume of `shape` (H, W, D), without touching a voxel."""
    shape = _size3(shape, "shape")
    crop = _crop_for(shape, crop_size)
    padded = select_grid(shape, crop, patch_max)
    resized = resized_shape(shape, padded, resize)
    x, y, z = (p // c for p, c in zip(padded, crop, strict=True))
    before = [(p - r) // 2 for p, r in zip(padded, resized, strict=True)]
    return AnyresPlacement(shape, resized, padded, (before[0], before[1], before[2]), crop, (z, x, y))


def patchify(
    volume: torch.Tensor | np.ndarray,
    crop_size: Sequence[int] = CROP_SIZE,
    patch_max: int = PATCH_MAX,
    resize: str = "published",
) -> PatchedVolume:
    """Patches of a normalised volume (1, H, W, D): trilinear resize with aligned corners, zeros as padding."""
    volume = torch.as_tensor(volume, dtype=torch.float32)
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ValueError(f"a volume has shape (1, H, W, D), got {tuple(volume.shape)}")
    placement = plan(tuple(volume.shape[1:]), crop_size, patch_max, resize)
    if placement.resized_shape != placement.original_shape:
        volume = F.interpolate(volume[None], placement.resized_shape, mode="trilinear", align_corners=True)[0]
    return place_content(volume, placement)


def place_content(content: torch.Tensor, placement: AnyresPlacement) -> PatchedVolume:
    """Patches of a resized volume (1, w, h, d): zeros around it up to the padded grid, and the grid split."""
    padded = content.new_zeros((1, *placement.padded_shape))
    padded[(slice(None), *placement.content)] = content
    real = content.new_zeros(placement.padded_shape[2])
    real[placement.content[2]] = 1
    z, x, y = placement.patch_grid
    marks = real.view(z, -1).repeat_interleave(x * y, dim=0)
    return PatchedVolume(split_patches(padded, placement.crop_size), marks, placement)


def content_of(volume: PatchedVolume) -> torch.Tensor:
    """Inverse of `place_content`: the resized volume (1, w, h, d) without its padding."""
    return assemble_patches(volume.patches, volume.patch_grid)[(slice(None), *volume.placement.content)]


def split_patches(padded: torch.Tensor, crop_size: Sequence[int]) -> torch.Tensor:
    """(1, X, Y, Z) -> (P, c0, c1, c2), ordered z-major, then x, then y."""
    c0, c1, c2 = crop_size
    _, size_x, size_y, size_z = padded.shape
    blocks = padded.reshape(size_x // c0, c0, size_y // c1, c1, size_z // c2, c2)
    return blocks.permute(4, 0, 2, 1, 3, 5).reshape(-1, c0, c1, c2)


def assemble_patches(patches: torch.Tensor, patch_grid: Sequence[int]) -> torch.Tensor:
    """Inverse of `split_patches`: (P, c0, c1, c2) -> (1, X, Y, Z); with channels (P, n, c0, c1, c2) -> (n, X, Y, Z)."""
    if patches.ndim == 4:
        patches = patches[:, None]
    z, x, y = patch_grid
    _, channels, c0, c1, c2 = patches.shape
    blocks = patches.reshape(z, x, y, channels, c0, c1, c2)
    return blocks.permute(3, 1, 4, 2, 5, 0, 6).reshape(channels, x * c0, y * c1, z * c2)


def place_mask(mask: torch.Tensor | np.ndarray, placement: AnyresPlacement) -> torch.Tensor:
    """Masks (n, H, W, D) of 0, 1 and -1 (ignore) on the padded grid: (n, X, Y, Z) int8, -1 in the padding, nearest."""
    mask = torch.as_tensor(mask)
    if mask.ndim != 4 or tuple(mask.shape[1:]) != placement.original_shape:
        expected = ", ".join(map(str, placement.original_shape))
        raise ValueError(f"masks have shape (n, {expected}), got {tuple(mask.shape)}")
    resized = (resize_nearest(single.to(torch.int8), placement) for single in mask)  # one at a time bounds the memory
    return pad_masks(resized, len(mask), placement, mask.device)


def pad_masks(
    masks: Iterable[torch.Tensor], count: int, placement: AnyresPlacement, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """`count` resized masks (w, h, d) on the padded grid: (count, X, Y, Z) int8, -1 (ignored) in the padding."""
    padded = torch.full((count, *placement.padded_shape), IGNORED_VOXEL, dtype=torch.int8, device=device)
    for whole, mask in zip(padded, masks, strict=True):
        whole[placement.content] = mask
    return padded


def resize_nearest(mask: torch.Tensor | np.ndarray, placement: AnyresPlacement) -> torch.Tensor:
    """A mask or label map (H, W, D) of any number type on the resized grid: (w, h, d) of the same type."""
    mask = torch.as_tensor(np.ascontiguousarray(mask) if isinstance(mask, np.ndarray) else mask.contiguous())
    if tuple(mask.shape) != placement.original_shape:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for a volume of {placement.original_shape}")
    dtype = mask.dtype
    if dtype in (torch.int8, torch.bool):  # interpolate knows uint8 alone of these: the bytes are the same
        mask = mask.view(torch.uint8)
    return F.interpolate(mask[None, None], placement.resized_shape, mode="nearest")[0, 0].view(dtype)


def _size3(size: Sequence[int], name: str, least: int = 1) -> Size3:
    sizes = tuple(int(n) for n in size)
    if len(sizes) != 3 or min(sizes) < least:
        raise ValueError(f"{name} must be three positive integers, got {tuple(size)}")
    return sizes[0], sizes[1], sizes[2]


def _crop_for(shape: Sequence[int], crop_size: Sequence[int]) -> Size3:
    """The crop size, with depth 1 for a 2D image."""
    c0, c1, c2 = _size3(crop_size, "crop_size")
    return (c0, c1, 1 if shape[2] == 1 else c2)


def _exchanged(size: Size3) -> Size3:
    return size[1], size[0], size[2]
