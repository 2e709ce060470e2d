"""Random patches of volumes in memory, as nnU-Net draws them: a share of them around a voxel of an organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.segmentation_peer.volumes import BodyVolume, Normalisation
from datasets.volume.augmentation import Augmentation

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
    alike; otherwise it lies anywhere.  augmentation: of image and masks together, or None.
    """

    def __init__(
        self,
        volumes: Sequence[BodyVolume],
        normalisation: Normalisation,
        patch: tuple[int, int, int],
        foreground: float,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.volumes, self.normalisation = volumes, normalisation
        self.patch, self.foreground, self.augmentation = patch, foreground, augmentation
        self.random = np.random.default_rng(seed)
        self.organs = len(volumes[0].annotated)
        self.centres = [_centres(volume, self.random) for volume in volumes]

    def batch(self, size: int) -> PatchBatch:
        """`size` patches of volumes drawn at random, one volume a patch."""
        drawn = [self._patch(int(self.random.integers(len(self.volumes)))) for _ in range(size)]
        images, truth, annotated = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return PatchBatch(images, truth, annotated)

    def _patch(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        volume, centres = self.volumes[index], self.centres[index]
        shape = np.array(volume.image.shape)
        room = np.maximum(shape - self.patch, 0)
        if centres and self.random.random() < self.foreground:
            voxels = centres[self.random.integers(len(centres))]
            start = voxels[self.random.integers(len(voxels))].astype(np.int64) - np.array(self.patch) // 2
            start = np.clip(start, 0, room)
        else:
            start = self.random.integers(0, room + 1)
        box = tuple(slice(int(a), int(a) + size) for a, size in zip(start, self.patch, strict=True))
        image = _padded(volume.image[box].astype(np.float32), self.patch, self.normalisation.air)
        bits = _padded(volume.masks[box].astype(np.int64), self.patch, 0)
        return self._augmented(torch.from_numpy(image)[None], torch.from_numpy(bits)[None], volume.annotated)

    def _augmented(self, image: Tensor, bits: Tensor, annotated: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        if self.augmentation is not None:
            image, changed = self.augmentation(image, bits, int(self.random.integers(2**32)))
            assert changed is not None
            bits = changed
        truth = (bits >> torch.arange(self.organs)[:, None, None, None]) & 1
        return image, truth.float(), torch.from_numpy(annotated)


def _centres(volume: BodyVolume, random: np.random.Generator) -> list[np.ndarray]:
    """For each organ that has voxels, some of their indices (n, 3), int16."""
    found = []
    for number in np.flatnonzero(volume.annotated):
        voxels = np.argwhere((volume.masks >> volume.masks.dtype.type(number)) & 1).astype(np.int16)
        if len(voxels):
            found.append(random.permutation(voxels)[:VOXELS_KEPT])
    return found


def _padded(array: np.ndarray, shape: tuple[int, int, int], value: float) -> np.ndarray:
    """The array with `value` on both sides of each axis that is shorter than `shape`."""
    missing = [size - have for size, have in zip(shape, array.shape, strict=True)]
    if not any(missing):
        return np.ascontiguousarray(array)
    return np.pad(array, [(gap // 2, gap - gap // 2) for gap in missing], constant_values=value)
