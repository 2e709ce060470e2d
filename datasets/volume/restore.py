"""The way back from the padded grid of patches to the volume's own grid: mask logits become binary masks.

It inverts `anyres.place_mask`, on whose targets the decoder learns.  "Nearest" there rounds down, which moves a mask by
up to half a voxel against the image; so each source voxel is read at the centre of the grid voxels that were copied
from it, and a mask that was not shrunk comes back without an error.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from datasets.volume.anyres import AnyresPlacement


def restore_masks(logits: torch.Tensor, placement: AnyresPlacement, threshold: float = 0.0) -> torch.Tensor:
    """Mask logits (n, X, Y, Z) of the padded grid -> binary masks (n, H, W, D) uint8 on the volume's own grid.

    A voxel is 1 where its logit, interpolated along each axis, is above `threshold`.  Float memory is needed for one
    mask at a time only.  Raises ValueError for logits of another grid.
    """
    if logits.ndim != 4 or tuple(logits.shape[1:]) != placement.padded_shape:
        expected = ", ".join(map(str, placement.padded_shape))
        raise ValueError(f"mask logits have shape (n, {expected}), got {tuple(logits.shape)}")
    masks = [(_restore_one(single, placement) > threshold).to(torch.uint8) for single in logits]
    return torch.stack(masks) if masks else logits.new_zeros((0, *placement.original_shape), dtype=torch.uint8)


def _restore_one(logits: torch.Tensor, placement: AnyresPlacement) -> torch.Tensor:
    restored = logits[placement.content]
    # the axes that shrink most go first, so that the largest intermediate is as small as can be
    sizes = list(zip(placement.original_shape, placement.resized_shape, strict=True))
    for axis in sorted(range(3), key=lambda a: sizes[a][0] / sizes[a][1]):
        original, resized = sizes[axis]
        if original == resized:
            continue
        position = torch.as_tensor(_nearest_inverse(original, resized), dtype=torch.float32, device=logits.device)
        below = position.floor().long()
        above = (below + 1).clamp(max=resized - 1)
        weight = (position - below).to(logits.dtype).view([-1 if a == axis else 1 for a in range(3)])
        restored = torch.lerp(restored.index_select(axis, below), restored.index_select(axis, above), weight)
    return restored


def _nearest_inverse(original: int, resized: int) -> np.ndarray:
    """Where each of `original` voxels of an axis lies among the `resized` ones after "nearest" interpolation."""
    voxels = torch.arange(original, dtype=torch.float32)
    source = F.interpolate(voxels[None, None], resized, mode="nearest")[0, 0].numpy()
    copied, first, count = np.unique(source, return_index=True, return_counts=True)
    return np.interp(voxels.numpy(), copied, first + (count - 1) / 2)
