"""Which labels of a record a segmentation step asks for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

LABELS_PER_STEP = 60  # published

AbsentLabels = Literal["all", "balanced"]


def choose_labels(voxels: Sequence[int], limit: int, seed: int, absent: AbsentLabels = "all") -> list[int]:
    """Indices of the labels that a step asks for, at most `limit`, drawn from `seed` where there are more.

    Args:
        voxels: of each label of the record, how many its mask has; 0 for one that is absent from the volume.
        absent: "all", as published, treats absent labels like present ones; the indices rise.
            "balanced", ours, takes the present ones first, then absent ones, but not more than present ones: empty
            masks do not take over.  At least one absent label is taken where there is room: a model that never sees an
            empty mask would find everything everywhere.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"structures")])
    if absent == "all":
        return _at_most(range(len(voxels)), limit, rng)
    present = _at_most([index for index, count in enumerate(voxels) if count > 0], limit, rng)
    room = min(limit - len(present), max(len(present), 1))
    return present + _at_most([index for index, count in enumerate(voxels) if count == 0], room, rng)


def _at_most(indices: Sequence[int], limit: int, rng: np.random.Generator) -> list[int]:
    """All of the indices, or where there are more than `limit`, that many drawn without repeats; in rising order."""
    if len(indices) > limit:
        return sorted(rng.choice(indices, limit, replace=False).tolist())
    return list(indices)
