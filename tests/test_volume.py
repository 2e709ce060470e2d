"""Loading, normalising and cropping a CT; masks on its grid; and the way back onto the source file."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.anyres import patchify, place_mask, restore_masks
from datasets.volume import (
    VolumeError,
    VolumeGeometry,
    load_volume,
    normalize,
    read_mask,
    read_volume,
    restore_to_source,
    save_mask,
)
from tests.shared_data import shared_path

CODES = [
    "".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)
]  # all 48 orientations


def random_affine(codes: str, spacing, rng: np.random.Generator, tilt_degrees: float = 0.0) -> np.ndarray:
    """Affine of an array stored along `codes`, tilted about a random axis by at most `tilt_degrees`."""
    axes = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    directions = np.array([axes[code] for code in codes], dtype=float).T
    vector = rng.standard_normal(3)
    vector *= np.deg2rad(rng.uniform(0, tilt_degrees)) / np.linalg.norm(vector)
    cross = np.cross(np.eye(3), vector)
    angle = np.linalg.norm(vector)
    tilt = np.eye(3)
    if angle > 0:  # Rodrigues' formula
        tilt = np.eye(3) - np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions * spacing
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


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


def write(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def test_parity_of_the_loader():
    truth = np.load(shared_path("parity", "load_example_ct_sm.npz"))
    array, geometry = load_volume(shared_path("data", "real_ct", "example_ct_sm.nii.gz"), orientation="as_stored")
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


def test_forms_of_the_source_are_kept(tmp_path):
    """sform and qform may differ, and viewers differ in which they follow: both are copied from the source."""
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), None)
    tilted = random_affine("LPS", (1, 2, 3), np.random.default_rng(0), 30)
    image.set_qform(random_affine("RAS", (1, 2, 3), np.random.default_rng(1), 10), code=1)
    image.set_sform(tilted, code=4)
    nib.save(image, tmp_path / "ct.nii")
    source = nib.load(tmp_path / "ct.nii")
    _, geometry = read_volume(tmp_path / "ct.nii")
    mask = np.ones(geometry.shape, dtype=bool)
    saved = nib.load(save_mask(mask, geometry, tmp_path / "mask.nii"))
    for form in ("get_sform", "get_qform"):
        expected, got = getattr(source, form)(coded=True), getattr(saved, form)(coded=True)
        assert expected[1] == got[1]
        np.testing.assert_array_equal(expected[0], got[0])

    (tmp_path / "ct.nii").unlink()  # without the source, both forms are set to the affine that was read
    saved = nib.load(save_mask(mask, geometry, tmp_path / "mask.nii"))
    np.testing.assert_allclose(saved.get_sform(coded=True)[0], source.affine, atol=1e-4)
    np.testing.assert_allclose(saved.get_qform(coded=True)[0], source.affine, atol=1e-4)


def test_source_without_any_form_code(tmp_path):
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "ct.nii")
    _, geometry = read_volume(tmp_path / "ct.nii")
    saved = nib.load(save_mask(np.ones(geometry.shape), geometry, tmp_path / "mask.nii"))
    np.testing.assert_array_equal(saved.affine, nib.load(tmp_path / "ct.nii").affine)


def test_real_ct_and_its_multi_label_mask(tmp_path):
    path = shared_path("data", "real_ct", "example_ct_sm.nii.gz")
    labels = shared_path("data", "real_ct", "example_seg.nii.gz")
    stored = np.asarray(nib.load(labels).dataobj)
    _, geometry = load_volume(path)
    masks = read_mask(labels, geometry, values=[1, [2, 3], 255])
    assert masks.shape == (3, *geometry.shape)
    back = restore_to_source(masks[1], geometry)
    box = restore_to_source(np.ones(geometry.shape, np.uint8), geometry) == 1
    np.testing.assert_array_equal(back[box], np.isin(stored, (2, 3))[box])
    assert masks[0].sum() == (stored[box] == 1).sum() > 1000
    assert masks[2].sum() == 0


def test_masks_from_several_files(tmp_path):
    rng = np.random.default_rng(3)
    affine = random_affine("LPS", (1, 1, 2), rng)
    labels = rng.integers(0, 4, (6, 7, 5)).astype(np.uint8)
    source = write(tmp_path / "ct.nii.gz", rng.integers(-5, 99, labels.shape).astype(np.int16), affine)
    first = write(tmp_path / "first.nii.gz", (labels == 1).astype(np.uint8), affine)
    flipped = np.diag([1.0, -1, 1, 1])
    flipped[1, 3] = 6
    second = write(tmp_path / "second.nii.gz", labels[:, ::-1], affine @ flipped)  # same grid, another axis direction
    _, geometry = read_volume(source, orientation="as_stored")
    masks = read_mask([first, second], geometry, values=[1, [2, 3]])
    np.testing.assert_array_equal(masks[0], labels == 1)
    np.testing.assert_array_equal(masks[1], labels >= 2)
    np.testing.assert_array_equal(read_mask({"a": first, "b": second}, geometry)[1], labels != 0)
    np.testing.assert_array_equal(read_mask(first, geometry), masks[:1])
    with pytest.raises(VolumeError, match="2 mask files but 1 mask values"):
        read_mask([first, second], geometry, values=[1])


@pytest.mark.parametrize("change", ["shape", "shift", "spacing"])
def test_mask_on_another_grid_is_refused_and_both_files_named(change, tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    source = write(tmp_path / "ct.nii.gz", array, np.eye(4))
    affine = np.eye(4)
    if change == "shift":
        affine[0, 3] = 0.2
    if change == "spacing":
        affine[2, 2] = 1.1
    mask = write(tmp_path / "mask.nii.gz", array[:3] if change == "shape" else array, affine)
    _, geometry = read_volume(source)
    with pytest.raises(VolumeError, match=r"mask\.nii\.gz.*ct\.nii\.gz"):
        read_mask(mask, geometry)


def test_header_rounding_is_no_other_grid(tmp_path):
    affine = random_affine("LPS", (0.7, 0.7, 1.25), np.random.default_rng(0), 20)
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    _, geometry = read_volume(write(tmp_path / "ct.nii.gz", array, affine))
    read_mask(write(tmp_path / "mask.nii.gz", array, np.round(affine, 3)), geometry)


def test_unusable_masks_are_refused(tmp_path):
    source = write(tmp_path / "ct.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    _, geometry = read_volume(source)
    with pytest.raises(VolumeError, match="shape"):
        save_mask(np.zeros((4, 5, 7)), geometry, tmp_path / "a.nii.gz")
    for wrong in (0.5, 256, -1, np.nan):
        with pytest.raises(VolumeError, match="0 to 255"):
            save_mask(np.full(geometry.shape, wrong), geometry, tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=r"\.nii\.gz"):
        save_mask(np.zeros(geometry.shape), geometry, tmp_path / "a.png")


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
