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

    def __call__(self, image: Tensor, bits: Tensor, annotated: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """image (1, w, h, d) and bits (1, w, h, d) with bit i for organ i, both float32, annotated (n,) bool.

        Returns the changed image without the margin, the organs (n, w, h, d) as `unpack` gives them, and annotated.
        """
        mirrored = is_mirrored(seed, self.mirror)
        if mirrored:
            image, bits = image.flip(1 + MIRROR_AXIS), bits.flip(1 + MIRROR_AXIS)
        image, changed = self.steps(image, bits, seed)
        assert changed is not None
        inner = (slice(None), *(slice(self.margin, size - self.margin) for size in image.shape[1:3]))
        truth = unpack(changed[inner], len(annotated))
        if mirrored:
            truth, annotated = truth[self.partners], annotated[self.partners]
        return image[inner], truth, annotated


def unpack(bits: Tensor, organs: int) -> Tensor:
    """(1, w, h, d) with bit i for organ i -> (organs, w, h, d) float32 of 0 and 1; exact for 24 organs."""
    return ((bits.round().long() >> torch.arange(organs)[:, None, None, None]) & 1).float()
