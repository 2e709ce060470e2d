"""Masks that are kept as bits of the voxels that any of them has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.volume.sparse_masks import SparseMasks


def test_sparse_masks_come_back_from_memory_and_from_disk(tmp_path):
    masks = torch.rand(4, 7, 6, 5) > torch.tensor([0.2, 0.97, 2.0, -1.0]).view(4, 1, 1, 1)
    packed = SparseMasks.pack(iter(masks), (7, 6, 5))
    packed.save(tmp_path / "a" / "masks.safetensors")
    for given in (packed, SparseMasks.open(tmp_path / "a" / "masks.safetensors")):
        assert given.voxels.tolist() == masks.flatten(1).sum(1).tolist()
        assert torch.equal(given.dense([3, 0, 2, 1]).bool(), masks[[3, 0, 2, 1]])
        assert given.dense([]).shape == (0, 7, 6, 5)
    assert len(packed.bits) <= 2 * (7 * 6 * 5 + 8) // 8 + len(np.packbits(masks[1].numpy()))
    with pytest.raises(ValueError, match="a mask of shape"):
        SparseMasks.pack([masks[0]], (5, 6, 7))
