"""Augmentation of volumes and masks with MONAI.

It acts on the resized volume before padding, which is what the cache holds: no file is decoded for it, and the padding
keeps its place.  Only steps that keep the voxel grid are used.

A mirrored body has left and right exchanged, along whichever axis it is mirrored (a front-back mirror turned by 180
degrees is a left-right mirror).  So by default nothing is flipped where a label has a side, nor where a report may name
one: that is ours, the published runs flipped all the same.  Turning by 90 degrees moves left and right along with the
body, and is always allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import radians
from typing import Any

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch import Tensor

from datasets.errors import InputError


@dataclass(frozen=True)
class AugmentationOptions:
    """Probabilities and strengths; the defaults are those of the published runs, but for `flip_sided`.

    Intensities are those of a normalised volume, of unit standard deviation.

    rotate: of a turn by 90, 180 or 270 degrees in plane.
    flip: along each axis, for classification and image-text.  segmentation_flip: for segmentation.
    flip_sided: flip also where a label or a report has a side.  False is ours; the published runs did not ask.
    scale, scale_by: of a factor on all intensities, drawn from 1 - scale_by to 1 + scale_by.
    shift, shift_by: of an addition to all intensities, drawn from -shift_by to shift_by.
    noise, noise_sigma: of Gaussian noise with this standard deviation; segmentation alone.
    draw_noise_sigma: False takes noise_sigma as it is, which is how the published "sigma 0.05" reads.  True draws the
        deviation of each volume evenly from 0 to noise_sigma, as MONAI's transform does unless told otherwise; the
        published text does not say which of the two was run.
    affine: of a small turn in plane (affine_degrees), a change of size (affine_scale: 0.1 is a factor of 0.9 to 1.1)
        and a shift (affine_shift, voxels), each drawn evenly up to these.
    mirror: of a left-right mirror after which a left structure is called right; segmentation alone, see `mirrored`.
    contrast, gamma: of x -> x ** gamma on intensities scaled to 0..1, with gamma drawn from this range and mean and
        deviation kept; segmentation alone.

    Raises InputError for a probability outside 0..1, or a strength that is none.
    """

    rotate: float = 0.5
    flip: float = 0.1
    segmentation_flip: float = 0.0
    flip_sided: bool = False
    scale: float = 0.5
    scale_by: float = 0.1
    shift: float = 0.5
    shift_by: float = 0.1
    noise: float = 0.2
    noise_sigma: float = 0.05
    draw_noise_sigma: bool = False
    contrast: float = 0.2
    gamma: tuple[float, float] = (0.7, 1.5)
    affine: float = 0.0
    affine_degrees: float = 10.0
    affine_scale: float = 0.1
    affine_shift: float = 6.0
    mirror: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotate", "flip", "segmentation_flip", "scale", "shift", "noise", "contrast", "affine", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation, {name}: {getattr(self, name)} is no probability; give 0 to 1")
        for name in ("scale_by", "shift_by", "noise_sigma", "affine_degrees", "affine_scale", "affine_shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"augmentation, {name}: {getattr(self, name)} is no strength; give 0 or more")
        if not 0 < self.gamma[0] <= self.gamma[1] < float("inf"):
            raise InputError(f"augmentation, gamma: {self.gamma} is no range; give two rising numbers above 0")


STANDARD_AUGMENTATION = AugmentationOptions()


class Augmentation:
    """Random changes of one volume together with its masks, drawn from a seed.

    sided: a label or a report has a side, so flips are left out unless the options ask for them.
    segmentation: with noise and contrast, and with the flips of segmentation.
    rotate: False where crops are not square in plane, since a turned volume would not fill the same grid.
    """

    def __init__(
        self,
        sided: bool,
        segmentation: bool = False,
        rotate: bool = True,
        options: AugmentationOptions = STANDARD_AUGMENTATION,
    ) -> None:
        keys, flip = ("image", "masks"), options.segmentation_flip if segmentation else options.flip
        steps: list[Callable[..., Any]] = []
        if options.flip_sided or not sided:
            steps += [RandFlipd(keys, prob=flip, spatial_axis=axis, allow_missing_keys=True) for axis in range(3)]
        if rotate:
            steps.append(
                RandRotate90d(keys, prob=options.rotate, max_k=3, spatial_axes=(0, 1), allow_missing_keys=True)
            )
        if options.affine:
            degrees, scale, shift = options.affine_degrees, options.affine_scale, options.affine_shift
            steps.append(
                RandAffined(
                    keys,
                    prob=options.affine,
                    rotate_range=(0.0, 0.0, radians(degrees)),
                    scale_range=(scale, scale, 0.0),
                    translate_range=(shift, shift, 0.0),
                    mode=("bilinear", "nearest"),
                    padding_mode="zeros",
                    allow_missing_keys=True,
                )
            )
        if segmentation:
            steps += [
                RandAdjustContrastd("image", prob=options.contrast, gamma=options.gamma, retain_stats=True),
                RandGaussianNoised(
                    "image", prob=options.noise, std=options.noise_sigma, sample_std=options.draw_noise_sigma
                ),
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


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's record of what was done to it."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
