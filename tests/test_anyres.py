"""Anyres against the published parity vectors, a brute-force grid search, and round trips of masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from datasets.volume.anyres import (
    AnyresPlacement,
    assemble_patches,
    patchify,
    place_mask,
    plan,
    resized_shape,
    select_grid,
    split_patches,
)
from datasets.volume.restore import restore_masks
from tests.parity import VECTORS

PARITY_FILES = ("120x90x64", "300x300x150", "64x128x9", "90x120x20", "96x96x40")
TINY_CROP = (64, 64, 16)


def ellipsoid(shape, centre=(0.5, 0.5, 0.5), radius=(0.3, 0.3, 0.3)) -> np.ndarray:
    """A solid ellipsoid (1, H, W, D) uint8; centre and radii as shares of the shape."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    distance = sum(((a - c * n) / (r * n)) ** 2 for a, c, r, n in zip(axes, centre, radius, shape, strict=True))
    return (distance <= 1)[None].astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("name", PARITY_FILES)
def test_parity(name):
    truth = np.load(VECTORS / f"anyres_{name}.npz")
    rng = np.random.default_rng(int(truth["seed"]))
    image = rng.standard_normal(truth["shape"], dtype=np.float32)
    patched = patchify(image, patch_max=int(truth["patch_max"]))

    assert patched.placement.padded_shape == tuple(truth["best"])
    assert patched.placement.resized_shape == tuple(truth["resized"][1:])
    assert patched.patch_grid == tuple(truth["patch_grid"])
    assert patched.patches.shape == tuple(truth["patches_shape"][1:])
    np.testing.assert_array_equal(patched.slice_marks, truth["marks"][0])
    patches = patched.patches.numpy()
    tolerance = 1e-4 * float(truth["patches_std"])
    np.testing.assert_allclose(patches[:, ::16, ::16, ::4], truth["patches_sub"][0], atol=tolerance, rtol=0)
    assert patches.mean(dtype=np.float64) == pytest.approx(float(truth["patches_mean"]), abs=tolerance)
    assert patches.std(dtype=np.float64) == pytest.approx(float(truth["patches_std"]), abs=tolerance)

    if "mask_shape" in truth:
        mask = place_mask((rng.random(truth["shape"]) > 0.5).astype(np.uint8), patched.placement).numpy()
        assert mask.shape == tuple(truth["mask_shape"])
        np.testing.assert_array_equal(mask[:, ::16, ::16, ::4], truth["mask_sub"])
        assert (mask == 1).sum() == truth["mask_sum_pos"]
        assert (mask == -1).sum() == truth["mask_pad"]


def brute_force_grid(shape, crop, patch_max):
    """Every candidate grid in a list, then the best by a plain scan that replaces only on a strict gain."""
    depth_factors = [1] if shape[2] == 1 else range(1, 10)
    crop = (*crop[:2], 1) if shape[2] == 1 else crop
    best = None
    for i, j, k in itertools.product(range(1, 10), range(1, 10), depth_factors):
        if i * j * k > patch_max:
            continue
        candidate = [crop[0] * i, crop[1] * j, crop[2] * k]
        scale = min(candidate[a] / shape[a] for a in range(3))
        fitted = int(shape[0] * scale) * int(shape[1] * scale) * int(shape[2] * scale)
        effective = min(fitted, shape[0] * shape[1] * shape[2])
        waste = candidate[0] * candidate[1] * candidate[2] - effective
        if best is None or effective > best[0] or (effective == best[0] and waste < best[1]):
            best = (effective, waste, tuple(candidate))
    return best[2]


def test_grid_selection_equals_brute_force():
    rng = np.random.default_rng(3)
    grids = set()
    for _ in range(300):
        shape = tuple(int(n) for n in (*rng.integers(20, 900, 2), rng.integers(1, 400)))
        crop = [(256, 256, 32), (128, 128, 128), (64, 64, 16)][rng.integers(3)]
        patch_max = int(rng.integers(1, 9))
        chosen = select_grid(shape, crop, patch_max)
        assert chosen == brute_force_grid(shape, crop, patch_max), (shape, crop, patch_max)
        grids.add(tuple(c // p for c, p in zip(chosen, crop, strict=True)))
    assert len(grids) > 10  # the draw reaches many grids, not the first one over and over


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ((100, 50, 10), (200, 200, 30), (200, 100, 20)),  # first axis strictly smallest: all by 2
        ((50, 100, 10), (200, 200, 60), (100, 200, 40)),  # second axis strictly smallest: depth by the first axis' 4
        ((100, 100, 10), (200, 200, 25), (200, 200, 25)),  # a tie fills the depth, in plane min(ceil(100 * 2.5), 200)
        ((100, 90, 40), (200, 200, 20), (50, 45, 20)),  # depth smallest: all by 0.5
        ((100, 50, 1), (200, 200, 1), (200, 100, 1)),  # 2D image
        ((50, 100, 1), (200, 200, 1), (100, 200, 1)),
    ],
)
def test_published_sizes_worked_by_hand(shape, target, expected):
    assert resized_shape(shape, target) == expected


def test_isotropic_keeps_proportions_where_published_does_not():
    rng = np.random.default_rng(5)
    distorted = 0
    for _ in range(200):
        shape = tuple(int(n) for n in rng.integers(20, 400, 3))
        target = select_grid(shape)
        size = resized_shape(shape, target, "isotropic")
        scale = min(t / n for t, n in zip(target, shape, strict=True))
        assert all(1 <= n <= t for n, t in zip(size, target, strict=True))
        assert any(n == t for n, t in zip(size, target, strict=True))  # as large as fits
        assert all(abs(s - n * scale) <= 0.5 or s == 1 for s, n in zip(size, shape, strict=True))
        published = resized_shape(shape, target)
        distorted += any(abs(s - n * scale) > 2 for s, n in zip(published, shape, strict=True))
    assert distorted > 0
    assert resized_shape((300, 300, 2), (256, 256, 32), "isotropic") == (256, 256, 2)
    assert resized_shape((1000, 30, 2), (256, 256, 32), "isotropic") == (256, 8, 1)  # 2 * 0.256 rounds to 1 at least


def test_shrink_leaves_what_has_room_and_is_isotropic_with_what_has_not():
    rng = np.random.default_rng(6)
    smaller = 0
    for _ in range(200):
        shape = tuple(int(n) for n in rng.integers(20, 700, 3))
        target = select_grid(shape)
        fits = all(n <= t for n, t in zip(shape, target, strict=True))
        smaller += not fits
        assert resized_shape(shape, target, "shrink") == (shape if fits else resized_shape(shape, target, "isotropic"))
    assert 0 < smaller < 200
    assert resized_shape((100, 30, 1), (256, 256, 1), "shrink") == (100, 30, 1)
    volume = torch.randn(1, 40, 50, 12)
    cut = patchify(volume, (64, 64, 8), 2, "shrink")
    assert torch.equal(assemble_patches(cut.patches, cut.patch_grid)[0][cut.placement.content], volume[0])
    assert int(cut.slice_marks.sum()) == 12


def test_image_2d():
    patched = patchify(torch.rand(1, 300, 200, 1))
    assert patched.placement.crop_size == (256, 256, 1)
    assert patched.patches.shape[1:] == (256, 256, 1)
    assert torch.equal(patched.slice_marks, torch.ones(math.prod(patched.patch_grid), 1))


def test_patch_order_and_marks_against_loops():
    volume = torch.rand(1, 40, 90, 20)
    patched = patchify(volume, crop_size=(32, 32, 8), patch_max=6)
    z, x, y = patched.patch_grid
    assert z * x * y == len(patched.patches) > 2
    padded = assemble_patches(patched.patches, patched.patch_grid)
    assert padded.shape == (1, *patched.placement.padded_shape)
    before, size = patched.placement.pad_before[2], patched.placement.resized_shape[2]
    index = 0
    for iz in range(z):
        for ix in range(x):
            for iy in range(y):
                block = padded[0, ix * 32 : ix * 32 + 32, iy * 32 : iy * 32 + 32, iz * 8 : iz * 8 + 8]
                assert torch.equal(patched.patches[index], block)
                for k in range(8):
                    assert patched.slice_marks[index, k] == float(before <= iz * 8 + k < before + size)
                index += 1
    assert torch.equal(split_patches(padded, (32, 32, 8)), patched.patches)
    with_channels = torch.stack([patched.patches, patched.patches + 1], dim=1)
    both = assemble_patches(with_channels, patched.patch_grid)
    assert torch.equal(both[1], padded[0] + 1)


def test_padding_is_centred_and_marked():
    placement = plan((90, 120, 20))
    mask = place_mask(np.ones((2, 90, 120, 20), np.uint8), placement)
    assert mask.dtype == torch.int8
    inside = torch.zeros(placement.padded_shape, dtype=torch.bool)
    inside[56 : 56 + 144, 32 : 32 + 192, :] = True  # 144x192x32 in 256x256x32
    assert torch.equal(mask[0] == 1, inside)
    assert torch.equal(mask[1] == -1, ~inside)


def test_mask_to_ignore_survives_placing():
    mask = torch.tensor([0, 1, -1], dtype=torch.int8).repeat(30).reshape(1, 90, 1, 1).expand(1, 90, 60, 16)
    placed = place_mask(mask, plan((90, 60, 16), TINY_CROP))
    content = placed[(slice(None), *plan((90, 60, 16), TINY_CROP).content)]
    assert set(content.unique().tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("resize", ["published", "isotropic", "shrink"])
def test_round_trip_of_solid_objects(resize):
    """Exact where no axis shrinks; Dice >= 0.97 where one shrinks, which drops every 1 / s-th plane of the mask."""
    rng = np.random.default_rng(11)
    exact = shrunk = 0
    for _ in range(24):
        shape = tuple(int(n) for n in (*rng.integers(30, 110, 2), rng.integers(12, 50)))
        mask = ellipsoid(shape, rng.uniform(0.4, 0.6, 3), rng.uniform(0.25, 0.38, 3))
        placement = plan(shape, TINY_CROP, 6, resize)
        logits = torch.where(place_mask(mask, placement) == 1, 8.0, -8.0)
        back = restore_masks(logits, placement).numpy()
        smallest = min(r / n for r, n in zip(placement.resized_shape, shape, strict=True))
        if smallest >= 1:
            assert np.array_equal(back, mask), shape
            exact += 1
        elif smallest >= 0.8:
            assert dice(back, mask) >= 0.97, (shape, placement.resized_shape)
            shrunk += 1
    assert exact >= 3
    assert shrunk >= 3


@pytest.mark.parametrize("depth", [60, 90])
def test_round_trip_at_full_size(depth):
    """An organ in a chest CT (512 pixels in plane, here 400 to save time), shrunk to the published crop and back.

    Nearest shrinking by 1.6 leaves the surface known to within 0.8 voxels, so Dice depends on the size of the object.
    """
    shape = (400, 400, depth)
    mask = ellipsoid(shape, (0.45, 0.55, 0.5), (0.3, 0.25, 0.4))
    placement = plan(shape)
    assert min(placement.resized_shape[:2]) < 400
    logits = torch.where(place_mask(mask, placement) == 1, 8.0, -8.0)
    assert dice(restore_masks(logits, placement).numpy(), mask) >= 0.99


def test_restore_follows_the_placed_mask_not_its_neighbour():
    """A plane through the middle must not drift: the restored edge of a half space lies where it was."""
    for size in (30, 50, 61, 100, 127):
        mask = np.zeros((1, size, 64, 16), np.uint8)
        mask[:, : size // 2] = 1
        placement = plan((size, 64, 16), TINY_CROP, 1)
        logits = torch.where(place_mask(mask, placement) == 1, 8.0, -8.0)
        edge = restore_masks(logits, placement)[0, :, 32, 8].sum().item()
        shrink = max(1.0, size / placement.resized_shape[0])
        assert abs(edge - size // 2) <= math.ceil(shrink - 1), size


def test_a_fraction_of_logits_decides_between_two_voxels():
    """Between a voxel copied with logit 8 and the next with -8 the value falls evenly: more of 8 is inside."""
    placement = plan((100, 64, 16), TINY_CROP, 1)
    assert placement.resized_shape[0] == 64  # of every 25 voxels 16 are kept
    logits = torch.full((1, *placement.padded_shape), -8.0)
    logits[0, :32] = 8.0
    inside = restore_masks(logits, placement)[0, :, 32, 8]
    assert inside.tolist() == sorted(inside.tolist(), reverse=True) and 49 <= int(inside.sum()) <= 51
    assert restore_masks(logits, placement, threshold=9.0).sum() == 0
    assert restore_masks(logits.bfloat16(), placement).dtype == torch.uint8
    assert restore_masks(logits[:0], placement).shape == (0, 100, 64, 16)


def test_placement_record_survives_json():
    placement = plan((90, 120, 20))
    assert AnyresPlacement.from_dict(placement.to_dict()) == placement


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patchify(torch.zeros(2, 8, 8, 8)), r"\(1, H, W, D\)"),
        (lambda: plan((8, 8)), "three positive integers"),
        (lambda: plan((8, 8, 0)), "three positive integers"),
        (lambda: plan((8, 8, 8), patch_max=0), "patch_max"),
        (lambda: plan((8, 8, 8), resize="stretch"), "published, isotropic"),
        (lambda: place_mask(np.zeros((1, 8, 8, 9), np.uint8), plan((8, 8, 8))), "masks have shape"),
        (lambda: restore_masks(torch.zeros(1, 8, 8, 8), plan((8, 8, 8))), "mask logits have shape"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    volume = torch.rand(1, 90, 120, 20)
    mask = torch.as_tensor(ellipsoid((90, 120, 20)))
    cpu, cuda = patchify(volume), patchify(volume.cuda())
    torch.testing.assert_close(cuda.patches.cpu(), cpu.patches, atol=1e-5, rtol=0)
    placed = place_mask(mask.cuda(), cuda.placement)
    assert torch.equal(placed.cpu(), place_mask(mask, cpu.placement))
    logits = torch.where(placed == 1, 8.0, -8.0)
    assert torch.equal(restore_masks(logits, cuda.placement).cpu(), mask)
