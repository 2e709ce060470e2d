"""Training masks on some slices: the kept ones are decoded as before, the dropped ones cost and count nothing."""

from __future__ import annotations

import torch

from datasets.anyres import patchify
from models.configuration import VISION_PRESETS
from models.losses import mask_loss
from models.slice_sampling import sample_slices
from models.vision import PADDING_LOGIT, VisionModel

CONFIG = VISION_PRESETS["tiny"]


def encoded_volume():
    vision = VisionModel(CONFIG).eval()
    patched = patchify(torch.randn(1, 120, 60, 40), CONFIG.crop_size, 4)
    encoded = vision.encode(patched.patches, patched.slice_marks, patched.patch_grid)
    masks = torch.zeros(2, *patched.placement.padded_shape, dtype=torch.int8)
    masks[0, 3:9, 5:20, 10:14] = 1
    padding = ~patched.slice_marks.bool()
    return vision, encoded, masks, padding


@torch.no_grad()
def test_kept_slices_are_as_in_the_whole_and_dropped_ones_are_ignored():
    vision, encoded, masks, _ = encoded_volume()
    queries = torch.randn(2, CONFIG.llm_width)
    whole = vision.decode_masks(encoded, queries)
    part, targets = sample_slices(encoded, masks, 10)
    assert int(part.valid.sum()) == 10 and not (part.valid & ~encoded.valid).any()
    logits = vision.decode_masks(part, queries)
    known = targets >= 0
    assert torch.allclose(logits[known], whole[known], atol=1e-5)
    assert (logits[~known & (masks >= 0)] == PADDING_LOGIT).all()
    assert torch.equal(targets[known], masks[known])
    z, x, y = encoded.patch_grid
    for p in range(z * x * y):  # every slice of every patch, by its place in the padded grid
        a, b, c = p // (x * y), p // y % x, p % y
        for d in range(16):
            voxels = targets[:, b * 64 : b * 64 + 64, c * 64 : c * 64 + 64, a * 16 + d]
            assert bool((voxels >= 0).any()) == bool(part.valid[p, d])
    assert all(torch.isfinite(term) for term in mask_loss(logits, targets))


def test_half_of_the_slices_come_from_the_structure():
    _, encoded, masks, _ = encoded_volume()
    held = (masks == 1).any(0).any(0).any(0).nonzero()[:, 0].tolist()
    assert len(held) == 4
    _, targets = sample_slices(encoded, masks, 8)
    assert ((targets[0] == 1).any(0).any(0)).sum() == 4
    _, targets = sample_slices(encoded, masks, 4)
    assert ((targets[0] == 1).any(0).any(0)).sum() >= 2


def test_nothing_is_dropped_where_there_are_few():
    _, encoded, masks, _ = encoded_volume()
    part, targets = sample_slices(encoded, masks, 10_000)
    assert part is encoded and targets is masks
