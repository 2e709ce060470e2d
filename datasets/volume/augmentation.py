"""Augmentation of volumes and masks with MONAI.

It acts on the resized volume before padding, which is what the cache holds: no file is decoded for it, and the padding
keeps its place.  Only steps that keep the voxel grid are used.

A mirrored body has left and right exchanged, along whichever axis it is mirrored (a front-back mirror turned by 180
degrees is a left-right mirror).  So nothing is flipped where a label has a side, nor where a report may name one.
Turning by 90 degrees moves left and right along with the body, and is always allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch import Tensor

from datasets.volume.anyres import AnyresPlacement, PatchedVolume, assemble_patches, split_patches


@dataclass(frozen=True)
class AugmentationOptions:
    """Probabilities and strengths.  Intensities are those of a normalised volume, of unit standard deviation.

    flip: for each axis.  scale: of intensities by a factor in 1 +- scale_by.  shift: by +- shift_by.  For segmentation
    also noise of a standard deviation up to noise_by, and contrast by a gamma in the given range.
    """

    rotate: float = 0.1
    flip: float = 0.1
    scale: float = 0.5
    scale_by: float = 0.1
    shift: float = 0.5
    shift_by: float = 0.1
    noise: float = 0.1
    noise_by: float = 0.1
    contrast: float = 0.1
    gamma: tuple[float, float] = (0.7, 1.5)


STANDARD_AUGMENTATION = AugmentationOptions()


class Augmentation:
    """Random changes of one volume together with its masks, drawn from a seed.

    sided: never flip.  segmentation: with noise and contrast.  rotate: False where crops are not square in plane, since
    a turned volume would not fill the same grid.
    """

    def __init__(
        self,
        sided: bool,
        segmentation: bool = False,
        rotate: bool = True,
        options: AugmentationOptions = STANDARD_AUGMENTATION,
    ):
        both = {"keys": ("image", "masks"), "allow_missing_keys": True}
        steps = [] if sided else [RandFlipd(**both, prob=options.flip, spatial_axis=axis) for axis in range(3)]
        if rotate:
            steps.append(RandRotate90d(**both, prob=options.rotate, max_k=3, spatial_axes=(0, 1)))
        if segmentation:
            steps += [
                RandAdjustContrastd("image", prob=options.contrast, gamma=options.gamma, retain_stats=True),
                RandGaussianNoised("image", prob=options.noise, std=options.noise_by),
            ]
        steps += [
            RandScaleIntensityd("image", prob=options.scale, factors=options.scale_by),
            RandShiftIntensityd("image", prob=options.shift, offsets=options.shift_by),
        ]
        self.steps = Compose(steps)

    def __call__(self, image: Tensor, masks: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """image (1, w, h, d) float, masks (n, w, h, d) or None -> the same, changed; w and h may be exchanged."""
        self.steps.set_random_state(seed=seed % 2**32)
        data = {"image": image} if masks is None else {"image": image, "masks": masks}
        changed = self.steps(data)
        return _plain(changed["image"]), None if masks is None else _plain(changed["masks"])


def content_of(volume: PatchedVolume) -> Tensor:
    """The resized volume (1, w, h, d) without its padding."""
    return assemble_patches(volume.patches, volume.patch_grid)[(slice(None), *volume.placement.content)]


def place_content(content: Tensor, placement: AnyresPlacement) -> PatchedVolume:
    """Inverse of `content_of`; a content turned by 90 degrees in plane goes to the turned grid of patches."""
    placement = _turned_if_needed(placement, tuple(content.shape[1:]))
    padded = content.new_zeros((1, *placement.padded_shape))
    padded[(slice(None), *placement.content)] = content
    real = content.new_zeros(placement.padded_shape[2])
    real[placement.content[2]] = 1
    z, x, y = placement.patch_grid
    marks = real.view(z, -1).repeat_interleave(x * y, dim=0)
    return PatchedVolume(split_patches(padded, placement.crop_size), marks, placement)


def place_masks(masks: Tensor, placement: AnyresPlacement, padding: int = -1) -> Tensor:
    """Masks (n, w, h, d) of the resized volume on its padded grid: (n, X, Y, Z) int8, `padding` around them."""
    placed = torch.full((len(masks), *placement.padded_shape), padding, dtype=torch.int8)
    placed[(slice(None), *placement.content)] = masks.to(torch.int8)
    return placed


def _turned_if_needed(placement: AnyresPlacement, shape: tuple[int, ...]) -> AnyresPlacement:
    if shape == placement.resized_shape:
        return placement
    z, x, y = placement.patch_grid
    turned = replace(
        placement,
        **{
            name: (size[1], size[0], size[2])
            for name in ("original_shape", "resized_shape", "padded_shape", "pad_before")
            for size in (getattr(placement, name),)
        },
        patch_grid=(z, y, x),
    )
    if shape != turned.resized_shape or placement.crop_size[0] != placement.crop_size[1]:
        raise ValueError(f"content of shape {shape} does not lie in a grid made for {placement.resized_shape}")
    return turned


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's record of what was done to it."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
