"""Random patches of volumes in memory, as nnU-Net draws them: a share of them around a voxel of an organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.segmentation_peer.augmenting import PatchAugmentation, unpack
from benchmarks.segmentation_peer.volumes import BodyVolume, Normalisation

VOXELS_KEPT = 500  # of each organ and volume, to draw centres from


@dataclass(frozen=True)
class PatchBatch:
    """images: (b, 1, w, h, d) float32.  truth: (b, organs, w, h, d) float32, 0 or 1.  annotated: (b, organs) bool."""

    images: Tensor
    truth: Tensor
    annotated: Tensor


class PatchSampler:
    """Draws batches of patches from normalised volumes; the same seed gives the same patches.

    patch: voxels along each axis; a smaller volume is padded with air, where there is no organ.  foreground: the
    probability that a patch is centred, as far as the volume reaches, on a voxel of an annotated organ, each organ
    alike; otherwise it lies anywhere.  augmentation: of image and organs together, or None.
    """

    def __init__(
        self,
        volumes: Sequence[BodyVolume],
        normalisation: Normalisation,
        patch: tuple[int, int, int],
        foreground: float,
        augmentation: PatchAugmentation | None,
        seed: int,
    ) -> None:
        self.volumes, self.normalisation = volumes, normalisation
        self.patch, self.foreground, self.augmentation = patch, foreground, augmentation
        self.random = np.random.default_rng(seed)
        self.centres = [_centres(volume, self.random) for volume in volumes]

    def batch(self, size: int) -> PatchBatch:
        """`size` patches of volumes drawn at random, one volume a patch."""
        drawn = [self._patch(int(self.random.integers(len(self.volumes)))) for _ in range(size)]
        images, truth, annotated = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return PatchBatch(images, truth, annotated)

    def _patch(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        volume, start = self.volumes[index], self._start(index)
        margin = self.augmentation.margin if self.augmentation else 0
        margins = (margin, margin, 0)
        low = [first - more for first, more in zip(start, margins, strict=True)]
        high = [first + size + more for first, size, more in zip(start, self.patch, margins, strict=True)]
        image = torch.from_numpy(cut(volume.image, low, high, self.normalisation.air).astype(np.float32))[None]
        bits = torch.from_numpy(cut(volume.masks, low, high, 0).astype(np.float32))[None]
        annotated = torch.from_numpy(volume.annotated)
        if self.augmentation is None:
            return image, unpack(bits, len(annotated)), annotated
        return self.augmentation(image, bits, annotated, int(self.random.integers(2**32)))

    def _start(self, index: int) -> list[int]:
        """The first voxel of a patch; negative where the volume is smaller than the patch, which then surrounds it."""
        volume, centres, size = self.volumes[index], self.centres[index], np.array(self.patch)
        room = np.array(volume.image.shape) - size
        if centres and self.random.random() < self.foreground:
            voxels = centres[self.random.integers(len(centres))]
            start = voxels[self.random.integers(len(voxels))].astype(np.int64) - size // 2
        else:
            start = self.random.integers(0, np.maximum(room, 0) + 1)
        start = np.where(room < 0, room // 2, np.clip(start, 0, np.maximum(room, 0)))
        return [int(first) for first in start]


def cut(array: np.ndarray, low: Sequence[int], high: Sequence[int], value: float) -> np.ndarray:
    """array[low:high] along each axis, with `value` where that reaches beyond the array."""
    result = np.full([last - first for first, last in zip(low, high, strict=True)], value, dtype=array.dtype)
    reach = [(max(first, 0), min(last, size)) for first, last, size in zip(low, high, array.shape, strict=True)]
    if all(first < last for first, last in reach):
        place = tuple(slice(a - first, b - first) for (a, b), first in zip(reach, low, strict=True))
        result[place] = array[tuple(slice(a, b) for a, b in reach)]
    return result


def _centres(volume: BodyVolume, random: np.random.Generator) -> list[np.ndarray]:
    """For each organ that has voxels, some of their indices (n, 3), int16."""
    found = []
    for number in np.flatnonzero(volume.annotated):
        voxels = np.argwhere((volume.masks >> volume.masks.dtype.type(number)) & 1).astype(np.int16)
        if len(voxels):
            found.append(random.permutation(voxels)[:VOXELS_KEPT])
    return found
