"""Augmentation: what may be flipped, that masks follow their image, and that the padding stays where it is."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from datasets.errors import InputError
from datasets.volume.anyres import assemble_patches, content_of, pad_masks, patchify, place_content, place_mask
from datasets.volume.augmentation import Augmentation, AugmentationOptions

GEOMETRY = AugmentationOptions(scale=0, shift=0, noise=0, contrast=0)
NOTHING = {"rotate": 0, "flip": 0, "scale": 0, "shift": 0, "noise": 0, "contrast": 0}


def numbered(shape=(4, 5, 3)) -> torch.Tensor:
    """A volume whose every voxel is different, so that one result comes from one move only."""
    return torch.arange(1, 1 + shape[0] * shape[1] * shape[2], dtype=torch.float32).view(1, *shape)


def move_of(volume: torch.Tensor, moved: torch.Tensor) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The permutation of axes and the flips that turn one into the other, found by trying all 48."""
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        tried = volume[0].permute(order).flip([axis for axis in range(3) if flips[axis]])
        if torch.equal(tried, moved[0]):
            return order, flips
    raise AssertionError("not a move of whole axes")


def is_mirrored(order, flips) -> bool:
    """Whether the move has determinant -1."""
    inversions = sum(order[a] > order[b] for a in range(3) for b in range(a + 1, 3))
    return (inversions + sum(flips)) % 2 == 1


def test_a_task_with_sides_is_turned_and_never_mirrored():
    augment = Augmentation(sided=True, options=GEOMETRY)
    moves = [move_of(numbered(), augment(numbered(), None, seed)[0]) for seed in range(400)]
    assert not any(is_mirrored(*move) for move in moves)
    turned = sum(move != ((0, 1, 2), (False,) * 3) for move in moves)
    assert 160 <= turned <= 240  # 0.5 of 400, four standard deviations around
    assert all(order[2] == 2 and not flips[2] for order, flips in moves)
    assert {order for order, _ in moves} == {(0, 1, 2), (1, 0, 2)}


def test_without_sides_each_axis_is_flipped_in_a_tenth_of_the_draws():
    augment = Augmentation(sided=False, rotate=False, options=GEOMETRY)
    moves = [move_of(numbered(), augment(numbered(), None, seed)[0]) for seed in range(600)]
    for axis in range(3):
        assert 35 <= sum(flips[axis] for _, flips in moves) <= 90  # 0.1 of 600 is 60, its deviation 7
    assert all(order == (0, 1, 2) for order, _ in moves)


@pytest.mark.parametrize(
    ("sided", "segmentation", "options", "mirrored"),
    [
        (False, True, {}, False),  # published: no flips of segmentation
        (False, True, {"segmentation_flip": 0.5}, True),
        (True, True, {"segmentation_flip": 0.5}, False),  # ours: never where there are sides ...
        (True, False, {"flip": 0.5}, False),
        (True, False, {"flip": 0.5, "flip_sided": True}, True),  # ... but where the options ask for it, as published
    ],
)
def test_who_is_flipped(sided, segmentation, options, mirrored):
    options = AugmentationOptions(scale=0, shift=0, noise=0, contrast=0, **options)
    augment = Augmentation(sided, segmentation, options=options)
    moves = [move_of(numbered(), augment(numbered(), None, seed)[0]) for seed in range(60)]
    assert any(is_mirrored(*move) for move in moves) is mirrored


def test_the_defaults_are_the_published_ones():
    options = AugmentationOptions()
    assert (options.rotate, options.flip, options.segmentation_flip, options.flip_sided) == (0.5, 0.1, 0, False)
    assert (options.scale, options.scale_by, options.shift, options.shift_by) == (0.5, 0.1, 0.5, 0.1)
    assert (options.noise, options.noise_sigma, options.contrast, options.gamma) == (0.2, 0.05, 0.2, (0.7, 1.5))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rotate": 1.5}, "augmentation, rotate: 1.5 is no probability"),
        ({"noise": float("nan")}, "augmentation, noise"),
        ({"noise_sigma": -1}, "augmentation, noise_sigma: -1 is no strength"),
        ({"gamma": (2.0, 1.0)}, r"augmentation, gamma: \(2.0, 1.0\) is no range"),
    ],
)
def test_a_wrong_option_is_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        AugmentationOptions(**options)


def test_masks_move_with_their_image():
    volume = numbered()
    masks = torch.stack([volume[0] % 7 == 0, volume[0] > 30]).to(torch.int8)
    augment = Augmentation(False, options=AugmentationOptions(rotate=0.5, flip=0.5, scale=0, shift=0))
    moved = 0
    for seed in range(40):
        image, changed = augment(volume, masks, seed)
        assert torch.equal(changed, torch.stack([image[0] % 7 == 0, image[0] > 30]).to(torch.int8))
        assert changed.dtype == torch.int8 and type(changed) is torch.Tensor and type(image) is torch.Tensor
        moved += image.shape != volume.shape or not torch.equal(image, volume)
    assert moved > 20


def test_intensities_change_within_their_bounds_and_masks_do_not():
    volume, masks = torch.randn(1, 6, 6, 6), torch.ones(1, 6, 6, 6, dtype=torch.int8)
    options = AugmentationOptions(**{**NOTHING, "scale": 1, "shift": 1})
    factors = set()
    for seed in range(30):
        image, changed = Augmentation(True, options=options)(volume, masks, seed)
        factor = ((image[0, 0, 0, 1] - image[0, 0, 0, 0]) / (volume[0, 0, 0, 1] - volume[0, 0, 0, 0])).item()
        offset = (image - volume * factor).mean().item()
        assert torch.allclose(image, volume * factor + offset, atol=1e-4)
        assert 0.9 - 1e-3 <= factor <= 1.1 + 1e-3 and abs(offset) <= 0.1 + 1e-3
        assert torch.equal(changed, masks)
        factors.add(round(factor, 4))
    assert len(factors) > 20


@pytest.mark.parametrize("segmentation", [True, False])
def test_noise_and_contrast_are_for_segmentation(segmentation):
    options = AugmentationOptions(**{**NOTHING, "noise": 1})
    volume = torch.randn(1, 8, 8, 8)
    noise = Augmentation(True, segmentation, options=options)(volume, None, 3)[0] - volume
    assert (noise.std() > 0) if segmentation else bool((noise == 0).all())
    options = AugmentationOptions(**{**NOTHING, "contrast": 1})
    contrast = Augmentation(True, segmentation, options=options)(volume, None, 3)[0]
    assert torch.equal(contrast, volume) is not segmentation
    assert torch.equal(contrast.flatten().argsort(), volume.flatten().argsort())  # a gamma keeps the order


@pytest.mark.parametrize("drawn", [False, True])
def test_the_deviation_of_the_noise_is_as_told_or_drawn_up_to_it(drawn):
    options = AugmentationOptions(**{**NOTHING, "noise": 1, "noise_sigma": 0.2, "draw_noise_sigma": drawn})
    augment, volume = Augmentation(True, True, options=options), torch.randn(1, 20, 20, 20)
    deviations = [float((augment(volume, None, seed)[0] - volume).std()) for seed in range(40)]
    if drawn:  # evenly from 0 to 0.2, so a quarter of them in each quarter: 10 of 40, deviation 2.7
        assert max(deviations) < 0.21 and sum(value < 0.05 for value in deviations) in range(2, 20)
    else:
        assert deviations == pytest.approx([0.2] * 40, abs=0.01)


def test_the_seed_alone_decides():
    volume = torch.randn(1, 6, 5, 4)
    augment, other = Augmentation(False, True), Augmentation(False, True)
    for seed in (0, 5, 2**63 - 1):
        expected = augment(volume, None, seed)[0]
        augment(volume, None, seed + 1)
        torch.manual_seed(seed % 1000)
        assert torch.equal(other(volume, None, seed)[0], expected) and torch.equal(
            augment(volume, None, seed)[0], expected
        )
    assert torch.equal(Augmentation(False, True, options=AugmentationOptions(**NOTHING))(volume, None, 1)[0], volume)


@pytest.mark.parametrize("shape", [(40, 52, 9), (90, 30, 12), (33, 33, 1)])
def test_content_is_taken_out_of_its_padding_and_put_back(shape):
    volume = patchify(torch.randn(1, *shape), (32, 32, 8), 4)
    content = content_of(volume)
    assert tuple(content.shape[1:]) == volume.placement.resized_shape
    back = place_content(content, volume.placement)
    assert back.placement == volume.placement
    assert torch.equal(back.patches, volume.patches) and torch.equal(back.slice_marks, volume.slice_marks)


def test_masks_are_placed_as_by_the_anyres_step():
    masks = (torch.rand(3, 40, 52, 9) > 0.5).to(torch.uint8)
    placement = patchify(torch.randn(1, 40, 52, 9), (32, 32, 8), 4).placement
    expected = place_mask(masks, placement)
    content = expected[(slice(None), *placement.content)]
    assert torch.equal(pad_masks(content, 3, placement), expected)


def test_a_turned_volume_lies_in_the_turned_grid():
    volume = patchify(torch.randn(1, 90, 30, 12), (32, 32, 8), 4)
    z, x, y = volume.patch_grid
    assert x != y
    content = content_of(volume).rot90(1, (1, 2))
    turned = place_content(content, volume.placement.for_content(tuple(content.shape[1:])))
    assert turned.patch_grid == (z, y, x) and len(turned.patches) == len(volume.patches)
    assert torch.equal(turned.slice_marks, volume.slice_marks)
    padded = assemble_patches(turned.patches, turned.patch_grid)
    assert torch.equal(padded[(slice(None), *turned.placement.content)], content)
    assert volume.placement.for_content(volume.placement.resized_shape) == volume.placement
    assert padded.count_nonzero() == content_of(volume).count_nonzero()  # zeros around it
    with pytest.raises(ValueError, match="does not lie in a grid"):
        volume.placement.for_content(tuple(content_of(volume)[0, 1:].shape))
