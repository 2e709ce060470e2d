"""Training masks on some slices: the kept ones are decoded as before, the dropped ones cost and count nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datasets.volume.anyres import patchify, place_mask
from models.configuration import ENCODER_NAMES, vision_preset
from models.extensions.slice_sampling import sample_slices
from models.masks.losses import mask_loss, part_mask_loss
from models.vision import VisionModel
from tests.tiny_model import VISION

CONFIG = VISION


def encoded_volume():
    vision = VisionModel(CONFIG).eval()
    patched = patchify(torch.randn(1, 120, 60, 40), CONFIG.crop_size, 4)
    encoded = vision.encode(patched.patches, patched.slice_marks, patched.patch_grid)
    masks = torch.zeros(2, *patched.placement.padded_shape, dtype=torch.int8)
    masks[0, 3:9, 5:20, 10:14] = 1
    padding = ~patched.slice_marks.bool()
    return vision, encoded, masks, padding


@torch.no_grad()
def test_kept_slices_are_as_in_the_whole_and_dropped_ones_are_left_out():
    vision, encoded, masks, _ = encoded_volume()
    queries = torch.randn(2, CONFIG.llm_width)
    whole = vision.decode_masks(encoded, queries)
    part = sample_slices(encoded, masks, 10)
    assert int(part.valid.sum()) == 10 and not (part.valid & ~encoded.valid).any()
    logits, targets = vision.decode_parts(part, queries), part.part_masks(masks)
    assert logits.shape == targets.shape == (10, 2, 64, 64)
    _, x, y = encoded.patch_grid
    for row, (p, d) in enumerate(part.valid.nonzero().tolist()):  # by the slice's place in the padded grid
        a, b, c = p // (x * y), p // y % x, p % y
        place = (slice(None), slice(b * 64, b * 64 + 64), slice(c * 64, c * 64 + 64), a * 16 + d)
        assert torch.allclose(logits[row], whole[place], atol=1e-5)
        assert torch.equal(targets[row], masks[place])
    assert all(torch.isfinite(term) for term in part_mask_loss(logits, targets))


def test_half_of_the_slices_come_from_the_structure():
    _, encoded, masks, _ = encoded_volume()
    held = (masks == 1).any(0).any(0).any(0).nonzero()[:, 0].tolist()
    assert len(held) == 4
    targets = sample_slices(encoded, masks, 8).part_masks(masks)
    assert (targets[:, 0] == 1).flatten(1).any(1).sum() == 4
    targets = sample_slices(encoded, masks, 4).part_masks(masks)
    assert (targets[:, 0] == 1).flatten(1).any(1).sum() >= 2


def test_nothing_is_dropped_where_there_are_few():
    _, encoded, masks, _ = encoded_volume()
    assert sample_slices(encoded, masks, 10_000) is encoded


def test_3d_encoders_whose_decoders_take_whole_patches_are_refused():
    config = vision_preset("tiny", "ResNet3D")
    patched = patchify(torch.randn(1, *config.crop_size), config.crop_size, 1)
    encoded = VisionModel(config).eval().encode(patched.patches, patched.slice_marks, patched.patch_grid)
    with pytest.raises(TypeError, match="2D1D"):
        sample_slices(encoded, torch.zeros(1, *config.crop_size), 4)


@pytest.mark.parametrize("name", ENCODER_NAMES)
@torch.no_grad()
def test_loss_of_the_parts_is_that_of_the_whole_volume(name: str):
    config = replace(vision_preset("tiny", name), patch_max=2)
    vision = VisionModel(config).eval()
    shape = tuple(size * grid - 5 for size, grid in zip(config.crop_size, (2, 1, 1), strict=True))
    patched = patchify(torch.randn(1, *shape), config.crop_size, config.patch_max)
    encoded = vision.encode(patched.patches, patched.slice_marks, patched.patch_grid)
    masks = place_mask((torch.rand(3, *shape) > 0.6).to(torch.int8), patched.placement)
    queries = torch.randn(3, config.query_width)
    parts = part_mask_loss(vision.decode_parts(encoded, queries, project=False), encoded.part_masks(masks))
    whole = mask_loss(vision.decode_masks(encoded, queries, project=False), masks)
    assert [term.item() for term in parts] == pytest.approx([term.item() for term in whole], rel=1e-5)
