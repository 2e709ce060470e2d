"""Many masks of one volume, resized for the encoder and kept as bits inside their bounding boxes.

As bytes, 200 masks of full size take 2.5 GB, while a step needs 60 of them at most.  Packed like this, each mask can be
read by itself, and its number of voxels is known without reading it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from datasets.volume.anyres import Size3
from datasets.volume.cache_files import read_cached, save_cached


@dataclass(frozen=True)
class SparseMasks:
    """n masks on the resized volume, before padding.

    shape: (w, h, d).  boxes: (n, 6), start and stop.  starts: (n + 1,), where the bytes of each begin.  voxels: (n,).
    bits: the packed boxes one after another, or the file that holds them.
    """

    shape: Size3
    boxes: torch.Tensor
    starts: torch.Tensor
    voxels: torch.Tensor
    bits: torch.Tensor | Path

    @classmethod
    def pack(cls, masks: Iterable[torch.Tensor], shape: Size3) -> SparseMasks:
        """From masks (w, h, d) bool, which are asked for one at a time."""
        boxes, pieces, voxels = [], [], []
        for mask in masks:
            if tuple(mask.shape) != tuple(shape):
                raise ValueError(f"a mask of shape {tuple(mask.shape)} for a volume of {tuple(shape)}")
            box = _bounding_box(mask)
            boxes.append([*(edge.start for edge in box), *(edge.stop for edge in box)])
            voxels.append(int(mask[box].count_nonzero()))
            pieces.append(np.packbits(mask[box].numpy()))
        starts = np.cumsum([0, *(len(piece) for piece in pieces)])
        return cls(
            shape,
            torch.tensor(boxes, dtype=torch.int32).reshape(-1, 6),
            torch.from_numpy(starts),
            torch.tensor(voxels, dtype=torch.int64),
            torch.from_numpy(np.concatenate([*pieces, np.zeros(0, np.uint8)])),
        )

    def save(self, path: Path) -> None:
        """Write them to a file of the cache."""
        tensors = {name: getattr(self, name).contiguous() for name in ("boxes", "starts", "voxels", "bits")}
        save_cached(path, {**tensors, "shape": torch.tensor(self.shape)}, "{}")

    @classmethod
    def open(cls, path: Path) -> SparseMasks | None:
        """What `save` wrote, or None where it is not there or damaged; packed masks stay on disk until asked for."""
        found = read_cached(path)
        if found is None:
            return None
        parts = found[0]
        width, height, depth = parts["shape"].tolist()
        return cls((width, height, depth), parts["boxes"], parts["starts"], parts["voxels"], bits=path)

    def dense(self, indices: Sequence[int]) -> torch.Tensor:
        """The masks of these indices: (len(indices), w, h, d) int8 of 0 and 1."""
        masks = torch.zeros((len(indices), *self.shape), dtype=torch.int8)
        for row, (index, packed) in enumerate(zip(indices, self._packed(indices), strict=True)):
            start, stop = self.boxes[index].view(2, 3).tolist()
            size = [b - a for a, b in zip(start, stop, strict=True)]
            bits = np.unpackbits(packed.numpy(), count=int(np.prod(size)))
            place = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            masks[row][place] = torch.from_numpy(bits.view(np.int8).reshape(size))
        return masks

    def _packed(self, indices: Sequence[int]) -> list[torch.Tensor]:
        ranges = [slice(int(self.starts[index]), int(self.starts[index + 1])) for index in indices]
        if isinstance(self.bits, torch.Tensor):
            return [self.bits[part] for part in ranges]
        with safe_open(self.bits, framework="pt") as file:
            stored = file.get_slice("bits")
            return [stored[part] for part in ranges]


def _bounding_box(mask: torch.Tensor) -> tuple[slice, slice, slice]:
    edges = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        occupied = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
        edges.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0))
    first, second, third = edges
    return first, second, third
