"""Loading, normalising and cropping a CT; masks on its grid; and the way back onto the source file."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.volume.anyres import patchify, place_mask
from datasets.volume.loading import (
    VolumeError,
    VolumeGeometry,
    load_volume,
    read_mask,
    read_volume,
    restore_to_source,
    save_mask,
)
from datasets.volume.normalisation import normalize
from datasets.volume.restore import restore_masks
from tests.ct_files import random_affine
from tests.ct_files import write_nifti as write
from tests.parity import VECTORS
from tests.shared_data import EXAMPLE_CT, shared_path

CODES = [
    "".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)
]  # all 48 orientations


def body_and_organ(shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A CT (H, W, D) int16 of air, with a body that leaves a random margin, and a solid organ within it (uint8)."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    low = [rng.uniform(0.02, 0.1) * n for n in shape]
    high = [rng.uniform(0.9, 0.98) * n for n in shape]
    box = np.ones(shape, dtype=bool)
    distance = 0.0
    for axis, a, b in zip(grid, low, high, strict=True):
        box &= (axis >= a) & (axis <= b)
        middle, half = (a + b) / 2, (b - a) / 2
        distance = distance + ((axis - middle - rng.uniform(-0.1, 0.1) * half) / (rng.uniform(0.6, 0.75) * half)) ** 2
    organ = distance <= 1
    ct = np.where(box, 40, -1000) + np.where(organ, 60, 0) + rng.integers(-20, 20, shape)
    return ct.astype(np.int16), organ.astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (np.count_nonzero(a) + np.count_nonzero(b))


def test_parity_of_the_loader():
    truth = np.load(VECTORS / "load_example_ct_sm.npz")
    array, geometry = load_volume(shared_path(*EXAMPLE_CT.split("/")), orientation="as_stored")
    assert array.shape == tuple(truth["shape"])
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[:, ::8, ::8, ::4], truth["sub"], rtol=1e-4, atol=1e-4)
    for name in ("mean", "std", "min", "max"):
        assert getattr(array, name)() == pytest.approx(float(truth[name]), rel=1e-4, abs=1e-5)
    assert geometry.shape == array.shape[1:]


def test_normalize_by_hand():
    rng = np.random.default_rng(0)
    narrow = rng.uniform(0, 900, (1, 8, 9, 10)).astype(np.float32)
    np.testing.assert_allclose(normalize(narrow), (narrow - narrow.mean()) / narrow.std(), atol=1e-5)

    wide = rng.uniform(-1000, 2000, (1, 8, 9, 10)).astype(np.float32)
    kept = wide.copy()
    ordered = np.sort(wide.ravel()).astype(np.float64)
    low, high = (  # linear interpolation between the two closest ranks
        ordered[int(r)] + (r - int(r)) * (ordered[int(r) + 1] - ordered[int(r)]) for r in (0.005 * 719, 0.995 * 719)
    )
    clipped = np.clip(wide, low, high)
    np.testing.assert_allclose(normalize(wide), (clipped - clipped.mean()) / clipped.std(), atol=1e-5)
    np.testing.assert_array_equal(wide, kept)  # the caller's array is left alone

    edge = np.zeros((1, 10, 10, 10), dtype=np.float32)
    edge[0, 0, 0, 0] = 1000  # a range of exactly 1000 is not clipped
    assert normalize(edge).max() == pytest.approx((1000 - 1) / np.sqrt(1000 - 1), rel=1e-4)
    edge[0, 0, 0, 0] = 1001  # more is: the only voxel that differs lies above the percentile
    with pytest.raises(VolumeError, match="constant after clipping"):
        normalize(edge)


def test_crop_is_the_bounding_box_of_positive_voxels(tmp_path):
    rng = np.random.default_rng(2)
    for trial in range(5):
        array = np.full((12, 10, 8), -5.0, dtype=np.float32)
        array[tuple(rng.integers(0, array.shape, (4, 3)).T)] = rng.uniform(1, 9, 4)
        path = write(tmp_path / f"{trial}.nii", array, np.eye(4))
        inside = [p for p in itertools.product(*map(range, array.shape)) if array[p] > 0]
        start = tuple(min(p[a] for p in inside) for a in range(3))
        stop = tuple(max(p[a] for p in inside) + 1 for a in range(3))
        loaded, geometry = load_volume(path)
        assert (geometry.crop_start, geometry.crop_stop) == (start, stop)
        box = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        np.testing.assert_allclose(loaded[0], normalize(box[None])[0], atol=1e-6)
        np.testing.assert_allclose(np.array(geometry.affine)[:3, 3], start)
        assert load_volume(path, crop_foreground=False)[0].shape == (1, 12, 10, 8)


def test_no_positive_voxel_keeps_the_whole_volume(tmp_path):
    path = write(tmp_path / "a.nii", -np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    assert load_volume(path)[0].shape == (1, 3, 4, 5)


def test_foreground_that_is_constant_is_refused(tmp_path):
    array = np.full((4, 4, 4), -1000.0)
    array[1:3, 1:3, 1:3] = 50
    with pytest.raises(VolumeError, match=r"a\.nii: .*constant"):
        load_volume(write(tmp_path / "a.nii", array, np.eye(4)))


@pytest.mark.parametrize("codes", CODES)
def test_saved_mask_lies_where_the_loaded_one_does(codes, tmp_path):
    """Through world coordinates: each voxel of the loaded grid lies at the same millimetres in the saved file."""
    rng = np.random.default_rng(CODES.index(codes))
    shape = tuple(int(n) for n in rng.integers(7, 13, 3))
    affine = random_affine(codes, rng.uniform(0.5, 5, 3), rng, tilt_degrees=25)
    ct, _ = body_and_organ(shape, rng)
    source = write(tmp_path / "ct.nii.gz", ct, affine)
    orientation = ("RAS", "LPS", "as_stored")[CODES.index(codes) % 3]
    array, geometry = load_volume(source, orientation=orientation)
    whole = read_volume(source, orientation=orientation)[0][0]
    np.testing.assert_array_equal(array[0], normalize(whole[geometry.crop_box][None])[0])

    mask = rng.integers(0, 5, array.shape[1:]).astype(np.uint8)
    saved = nib.load(save_mask(mask, geometry, tmp_path / "out" / "mask.nii.gz"))
    assert saved.get_data_dtype() == np.uint8
    assert saved.shape == shape
    np.testing.assert_array_equal(saved.affine, nib.load(source).affine)
    assert nib.aff2axcodes(saved.affine) == tuple(codes)
    written = np.asarray(saved.dataobj)
    assert np.bincount(written.ravel(), minlength=5)[1:].tolist() == np.bincount(mask.ravel(), minlength=5)[1:].tolist()
    loaded_index = np.argwhere(mask)
    world = np.c_[loaded_index, np.ones(len(loaded_index))] @ np.array(geometry.affine).T
    source_index = (world @ np.linalg.inv(saved.affine).T)[:, :3]
    rounded = np.round(source_index).astype(int)
    np.testing.assert_allclose(source_index, rounded, atol=1e-3)
    np.testing.assert_array_equal(written[tuple(rounded.T)], mask[tuple(loaded_index.T)])
    # and the CT itself, at the same places
    np.testing.assert_array_equal(ct[tuple(rounded.T)], whole[geometry.crop_box][tuple(loaded_index.T)])
    np.testing.assert_array_equal(written, restore_to_source(mask, geometry))


@pytest.mark.parametrize("seed", range(16))
def test_round_trip_from_file_to_patches_and_back(seed, tmp_path):
    """Random orientation, spacing, tilt and crop: mask file -> loaded grid -> anyres -> back -> file, Dice >= 0.99.

    Half of the volumes fit the grid of crops, and come back voxel by voxel.  The others are shrunk on the way, which
    drops planes of the mask: what is lost is a share of the surface, so 0.99 takes an organ some 50 voxels thick.
    """
    rng = np.random.default_rng(seed)
    codes = CODES[rng.integers(48)]
    spacing = [rng.uniform(0.7, 1.5) if code in "RLAP" else rng.uniform(1, 5) for code in codes]
    fits = seed % 2 == 0
    sizes = (60, 120) if fits else (162, 180)
    shape = tuple(int(rng.integers(*sizes)) if c in "RLAP" else int(rng.integers(70, 96)) for c in codes)
    affine = random_affine(codes, spacing, rng, tilt_degrees=20)
    ct, organ = body_and_organ(shape, rng)
    source = write(tmp_path / "ct.nii.gz", ct, affine)
    truth = write(tmp_path / "organ.nii.gz", organ, affine)

    array, geometry = load_volume(source)
    assert geometry.shape != nib.load(source).shape  # the crop took something away
    patched = patchify(array, crop_size=(128, 128, 96), patch_max=1)
    placed = place_mask(read_mask(truth, geometry), patched.placement)
    logits = torch.where(placed == 1, 6.0, -6.0)
    restored = restore_masks(logits, patched.placement)[0].numpy()
    saved = nib.load(save_mask(restored, geometry, tmp_path / "back.nii.gz"))
    np.testing.assert_array_equal(saved.affine, nib.load(truth).affine)
    score = dice(np.asarray(saved.dataobj), organ)
    assert score == 1 if fits else 0.99 <= score < 1


def test_geometry_survives_json(tmp_path):
    rng = np.random.default_rng(9)
    ct, _ = body_and_organ((20, 22, 12), rng)
    source = write(tmp_path / "ct.nii.gz", ct, random_affine("ASL", (1.1, 0.9, 3), rng, 15))
    _, geometry = load_volume(source)
    copy = VolumeGeometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert copy == geometry
    mask = rng.integers(0, 2, geometry.shape).astype(np.uint8)
    np.testing.assert_array_equal(restore_to_source(mask, copy), restore_to_source(mask, geometry))


def test_memory_stays_near_the_volume(tmp_path):
    """Peak of loading below 3.5 float32 volumes: the file's array, the loaded one, the percentiles' copy."""
    ct = np.random.default_rng(0).integers(-1000, 1500, (160, 160, 80)).astype(np.int16)
    path = write(tmp_path / "ct.nii", ct, np.diag([-1.0, -1, 2, 1]))
    tracemalloc.start()
    load_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * ct.size * 4, f"{peak / (ct.size * 4):.2f} volumes"
