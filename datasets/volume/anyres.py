"""Any-resolution patches: a volume of any size becomes equal crops for the encoder, and masks find their way back.

The steps are those of the published loader: choose a grid of crops, resize the volume into it, pad around the centre,
split.  The default reproduces how the released weights were trained, with its two odd size rules (see `resized_shape`);
`resize="isotropic"` keeps the proportions of the volume instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from datasets.vocabulary import IGNORED_VOXEL

Size3 = tuple[int, int, int]

CROP_SIZE: Size3 = (256, 256, 32)
PATCH_MAX = 6
RESIZE_MODES = ("published", "isotropic")


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

    def to_dict(self) -> dict[str, list[int]]:
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[int]]) -> AnyresPlacement:
        return cls(**{name: tuple(int(v) for v in value) for name, value in values.items()})


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
    best, best_rank = None, None
    for i in range(1, 10):
        for j in range(1, 10):
            deepest = patch_max // (i * j)
            for k in range(1, (min(1, deepest) if shape[2] == 1 else deepest) + 1):
                candidate = (crop[0] * i, crop[1] * j, crop[2] * k)
                scale = min(c / n for c, n in zip(candidate, shape, strict=True))
                effective = min(math.prod(int(n * scale) for n in shape), math.prod(shape))
                rank = (effective, effective - math.prod(candidate))
                if best_rank is None or rank > best_rank:
                    best, best_rank = candidate, rank
    return best


def resized_shape(shape: Sequence[int], target: Sequence[int], resize: str = "published") -> Size3:
    """Size (w, h, d) to which a volume of `shape` is resized inside the grid `target`.

    "published" is the rule of the released weights: its second branch scales the depth by the first axis' ratio, and
    any tie (every volume with square slices) falls to the last branch, which fills the depth.  "isotropic" scales all
    three axes by the smallest ratio.
    """
    height, width, depth = _size3(shape, "shape")
    target = _size3(target, "target")
    ratio_w, ratio_h, ratio_d = target[0] / height, target[1] / width, target[2] / depth
    if resize not in RESIZE_MODES:
        raise ValueError(f"resize must be one of {', '.join(RESIZE_MODES)}, got {resize!r}")

    def fit(size: int, ratio: float, axis: int) -> int:
        return min(math.ceil(size * ratio), target[axis])

    if resize == "isotropic":
        ratio = min(ratio_w, ratio_h) if depth == 1 else min(ratio_w, ratio_h, ratio_d)
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
    before = tuple((p - r) // 2 for p, r in zip(padded, resized, strict=True))
    return AnyresPlacement(shape, resized, padded, before, crop, (z, x, y))


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
    padded = volume.new_zeros((1, *placement.padded_shape))
    padded[(slice(None), *placement.content)] = volume
    real = volume.new_zeros(placement.padded_shape[2])
    real[placement.content[2]] = 1
    blocks, in_plane = placement.patch_grid[0], placement.patch_grid[1] * placement.patch_grid[2]
    marks = real.view(blocks, -1).repeat_interleave(in_plane, dim=0)
    return PatchedVolume(split_patches(padded, placement.crop_size), marks, placement)


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
    padded = torch.full((mask.shape[0], *placement.padded_shape), IGNORED_VOXEL, dtype=torch.int8, device=mask.device)
    # interpolate knows uint8 and not int8: the bytes are the same.  One mask at a time bounds the memory.
    for index, single in enumerate(mask):
        data = single.to(torch.int8).contiguous().view(torch.uint8)
        resized = F.interpolate(data[None, None], placement.resized_shape, mode="nearest")[0, 0]
        padded[(index, *placement.content)] = resized.view(torch.int8)
    return padded


def restore_mask_logits(logits: torch.Tensor, placement: AnyresPlacement) -> torch.Tensor:
    """Mask logits (n, X, Y, Z) of the padded grid on the volume's own grid: (n, H, W, D), linear along each axis.

    The inverse of `place_mask`, on whose targets the decoder learns.  "Nearest" there rounds down, which moves a mask
    by up to half a voxel against the image; so each source voxel is read at the centre of the grid voxels that were
    copied from it, and a mask that was not shrunk comes back without an error.
    """
    if logits.ndim != 4 or tuple(logits.shape[1:]) != placement.padded_shape:
        expected = ", ".join(map(str, placement.padded_shape))
        raise ValueError(f"mask logits have shape (n, {expected}), got {tuple(logits.shape)}")
    restored = logits.new_empty((logits.shape[0], *placement.original_shape))
    for index, single in enumerate(logits):
        restored[index] = _restore_one(single, placement)
    return restored


def restore_masks(logits: torch.Tensor, placement: AnyresPlacement, threshold: float = 0.0) -> torch.Tensor:
    """Binary masks (n, H, W, D) uint8, logit > threshold; float memory for one mask at a time only."""
    masks = [(_restore_one(single, placement) > threshold).to(torch.uint8) for single in logits]
    return torch.stack(masks) if masks else logits.new_zeros((0, *placement.original_shape), dtype=torch.uint8)


def _restore_one(logits: torch.Tensor, placement: AnyresPlacement) -> torch.Tensor:
    restored = logits[placement.content]
    # the axes that shrink most go first, so that the largest intermediate is as small as can be
    sizes = list(zip(placement.original_shape, placement.resized_shape, strict=True))
    for axis in sorted(range(3), key=lambda a: sizes[a][0] / sizes[a][1]):
        original, resized = sizes[axis]
        if original == resized:
            continue
        position = torch.as_tensor(_nearest_inverse(original, resized), dtype=torch.float32, device=logits.device)
        below = position.floor().long()
        above = (below + 1).clamp(max=resized - 1)
        weight = (position - below).to(logits.dtype).view([-1 if a == axis else 1 for a in range(3)])
        restored = torch.lerp(restored.index_select(axis, below), restored.index_select(axis, above), weight)
    return restored


def _nearest_inverse(original: int, resized: int) -> np.ndarray:
    """Where each of `original` voxels of an axis lies among the `resized` ones after "nearest" interpolation."""
    voxels = torch.arange(original, dtype=torch.float32)
    source = F.interpolate(voxels[None, None], resized, mode="nearest")[0, 0].numpy()
    copied, first, count = np.unique(source, return_index=True, return_counts=True)
    return np.interp(voxels.numpy(), copied, first + (count - 1) / 2)


def _size3(size: Sequence[int], name: str) -> Size3:
    sizes = tuple(int(n) for n in size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"{name} must be three positive integers, got {tuple(size)}")
    return sizes


def _crop_for(shape: Sequence[int], crop_size: Sequence[int]) -> Size3:
    """The crop size, with depth 1 for a 2D image."""
    c0, c1, c2 = _size3(crop_size, "crop_size")
    return (c0, c1, 1 if shape[2] == 1 else c2)
