"""A window of neighbouring slices in place of a whole volume, for training on masks.

Slices are independent of each other but for the encoder's attention along them, and neighbours look alike: in the time
of a whole volume a step can see windows of several.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from datasets.volume.anyres import AnyresPlacement

STRUCTURE_SHARE = 0.5  # of the windows, around a slice of a structure that is drawn first


def draw_window(masks: Tensor, count: int, seed: int) -> slice:
    """A window of `count` slices, at a random place or around a random slice of a random structure.

    masks (n, w, h, d), 1 in a structure.  All d slices where there are no more than `count`.
    """
    depth = masks.shape[-1]
    if depth <= count:
        return slice(0, depth)
    random = np.random.default_rng([seed, 2])
    first = int(random.integers(0, depth - count + 1))
    held = [row.nonzero().flatten().tolist() for row in (masks == 1).flatten(1, 2).any(1)]
    held = [slices for slices in held if slices]
    if held and random.random() < STRUCTURE_SHARE:
        slices = held[random.integers(len(held))]
        middle = slices[random.integers(len(slices))]
        first = min(max(middle - int(random.integers(0, count)), 0), depth - count)
    return slice(first, first + count)


def windowed(placement: AnyresPlacement, count: int) -> AnyresPlacement:
    """The placement of `count` slices of a volume that is placed so: as many patches deep as they need."""
    _, x, y = placement.patch_grid
    crop = placement.crop_size[2]
    deep = -(-count // crop)
    first, second, _ = placement.pad_before
    return replace(
        placement,
        original_shape=(*placement.original_shape[:2], count),
        resized_shape=(*placement.resized_shape[:2], count),
        padded_shape=(*placement.padded_shape[:2], deep * crop),
        pad_before=(first, second, (deep * crop - count) // 2),
        patch_grid=(deep, x, y),
    )


def content_window(image: Tensor, masks: Tensor, window: slice) -> tuple[Tensor, Tensor]:
    """image (1, w, h, d) and masks (n, w, h, d), their slices in the window alone."""
    return image[..., window].contiguous(), masks[..., window].contiguous()
