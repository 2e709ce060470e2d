"""The augmentation of our own segmentation, for patches whose masks are bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datasets.volume.augmentation import Augmentation, AugmentationOptions
from datasets.volume.mirror import is_mirrored, other_side

MARGIN = 16  # voxels in plane around a patch, so that a small turn or shift brings no emptiness into it
MIRROR_AXIS = 0  # of RAS


class PatchAugmentation:
    """Changes an image and its organs together, drawn from a seed; without flips, since organs have sides.

    square: patches are square in plane, so that they may be turned by a quarter.  A mirrored patient's left organs are
    called right; where an organ has no partner among `organs`, nobody is mirrored.
    """

    def __init__(self, options: AugmentationOptions, organs: Sequence[str], square: bool) -> None:
        self.steps = Augmentation(sided=True, segmentation=True, rotate=square, options=options)
        self.margin = MARGIN if options.affine else 0
        known = set(organs)
        self.mirror = options.mirror if all(other_side(organ) in known for organ in organs) else 0.0
        self.partners = [organs.index(other_side(organ)) if self.mirror else n for n, organ in enumerate(organs)]

    def __call__(self, image: Tensor, truth: Tensor, annotated: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """image (1, w, h, d), truth (n, w, h, d) of 0 and 1, annotated (n,) -> the same without the margin, changed."""
        if is_mirrored(seed, self.mirror):
            image, truth = image.flip(1 + MIRROR_AXIS), truth[self.partners].flip(1 + MIRROR_AXIS)
            annotated = annotated[self.partners]
        changed, bits = self.steps(image, pack(truth), seed)
        assert bits is not None
        inner = (slice(None), *(slice(self.margin, size - self.margin) for size in changed.shape[1:3]))
        return changed[inner], unpack(bits[inner], len(truth)), annotated


def pack(truth: Tensor) -> Tensor:
    """(n, w, h, d) of 0 and 1 -> (1, w, h, d) float32 with bit i for organ i; exact for 24 organs."""
    weights = 2.0 ** torch.arange(len(truth))
    return (truth.float() * weights[:, None, None, None]).sum(0, keepdim=True)


def unpack(bits: Tensor, organs: int) -> Tensor:
    """Inverse of `pack`, float32."""
    return ((bits.round().long() >> torch.arange(organs)[:, None, None, None]) & 1).float()
