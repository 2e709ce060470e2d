"""The mask decoder of the vision model against plain code that shares no work between slices and queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.encoders.positions import sinusoidal_positions
from models.vision import PADDING_LOGIT, VisionModel
from tests import plain_vision
from tests.vision_samples import TINY, assert_close, padded_volume, vision_model

model = vision_model  # the fixture


@pytest.mark.parametrize("grid", [(8, 8), (2, 3)])
def test_positions_against_loops(grid: tuple[int, int]):
    assert torch.allclose(sinusoidal_positions(grid, 24).double(), plain_vision.positions(*grid, 24), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("project", [True, False])
def test_masks_against_slices_one_by_one(model: VisionModel, project: bool):
    """30 real slices: several chunks, across patches in z, x and y."""
    volume = padded_volume()
    encoded = model.encode(*volume)
    queries = torch.randn(3, TINY.llm_width if project else TINY.query_width)
    projected = model.qwen2biolord(queries) if project else queries
    c0, c1, _ = TINY.crop_size
    z, x, y = volume.patch_grid
    expected = torch.full((3, x * c0, y * c1, z * 4), float("nan"))
    for patch in range(z * x * y):
        k, i, j = patch // (x * y), patch // y % x, patch % y
        for d in range(4):
            skips = [level[encoded.slice_rows[patch, d]] for level in encoded.skips]
            mask = plain_vision.slice_mask(model, encoded.tokens[patch, d], skips, projected)
            expected[:, i * c0 : (i + 1) * c0, j * c1 : (j + 1) * c1, k * 4 + d] = mask
    everything = model.decode_masks(encoded, queries, project=project, only_real_slices=False)
    assert_close(everything, expected, 1e-4)
    assert everything.std() > 1e-3
    real = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0]).bool()
    restricted = model.decode_masks(encoded, queries, project=project)
    assert_close(restricted[..., real], expected[..., real], 1e-4)
    assert (restricted[..., ~real] == PADDING_LOGIT).all()


@torch.no_grad()
def test_a_crop_that_is_not_square(model: VisionModel):
    """Positions, pooling and the first up-convolution follow crop / 32 on each axis."""
    torch.manual_seed(0)
    wide = VisionModel(replace(TINY, crop_size=(32, 96, 4))).eval()
    encoded = wide.encode(torch.randn(2, 32, 96, 3), torch.ones(2, 3), (1, 2, 1))
    queries = torch.randn(2, TINY.llm_width)
    logits = wide.decode_masks(encoded, queries)
    assert logits.shape == (2, 64, 96, 3)
    skips = [level[encoded.slice_rows[1, 2]] for level in encoded.skips]
    expected = plain_vision.slice_mask(wide, encoded.tokens[1, 2], skips, wide.qwen2biolord(queries))
    assert_close(logits[:, 32:, :, 2], expected, 1e-4)


@torch.no_grad()
def test_queries_do_not_see_each_other(model: VisionModel):
    encoded = model.encode(*padded_volume((1, 1, 1)))
    queries = torch.randn(5, TINY.llm_width)
    together = model.decode_masks(encoded, queries)
    for index in range(5):
        assert_close(model.decode_masks(encoded, queries[index : index + 1])[0], together[index])
    assert model.decode_masks(encoded, queries[:0]).shape == (0, 64, 64, 4)
    with pytest.raises(ValueError, match="project=False"):
        model.decode_masks(encoded, queries[:, :-1], project=False)
