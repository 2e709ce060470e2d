"""The mirrored patient: left and right change places in the volume, and so do the names of what has a side.

A mirror doubles the patients that a segmentation learns from.  Without the change of names it would teach that the left
kidney lies on the right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from datasets.label_descriptions import SIDE

_OTHER = {"left": "right", "right": "left"}


def other_side(label: str) -> str:
    """The label of the same structure on the other side of the body; itself where it has no side."""
    return SIDE.sub(lambda found: _OTHER[found[0]], label)


def side_axis(orientation: str) -> int | None:
    """Which axis of a volume runs from one side to the other, by its axis codes; None where that is not known."""
    found = re.search("[LR]", orientation) if len(orientation) == 3 else None
    return found.start() if found else None


def is_mirrored(seed: int, probability: float) -> bool:
    """Whether the sample with this seed is mirrored."""
    return bool(np.random.default_rng([seed, 1]).random() < probability)


def mirrored(image: Tensor, masks: Tensor, labels: Sequence[str], axis: int) -> tuple[Tensor, Tensor, list[str]]:
    """image (1, w, h, d), masks (n, w, h, d) and their labels -> those of the mirrored patient."""
    return image.flip(axis + 1), masks.flip(axis + 1), [other_side(label) for label in labels]
