"""Where the voxels of .npy and .npz arrays lie: RadChestCT's known axes, --array_axes, and what is assumed aloud."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from datasets.volume import loading
from datasets.volume.geometry import VolumeError, affine_of_axes
from datasets.volume.loading import load_volume, read_label_map, read_volume, save_mask
from datasets.volume.preprocessing import Preprocessing
from tests.ct_files import as_orientation

RELEASED = Preprocessing.released((32, 32, 8), 2)
OURS = Preprocessing.standard((32, 32, 8), 2)


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    """A CT in RAS, (x, y, z) of 7 x 6 x 5, with one bright voxel far to the right, in front and near the top."""
    ct = np.random.default_rng(0).uniform(1, 50, (7, 6, 5)).astype(np.float32)
    ct[5, 4, 3] = 900
    return ct


@pytest.fixture
def rad_chest_ct(body, tmp_path):
    """The same as RadChestCT stores it: (z, y, x), from top to bottom, front to back, right to left."""
    stored = body[::-1, ::-1, ::-1].transpose(2, 1, 0)
    assert stored[1, 1, 1] == 900
    np.savez_compressed(tmp_path / "trn00001.npz", ct=stored)
    return tmp_path / "trn00001.npz", stored


def test_rad_chest_ct_comes_out_in_true_ras(body, rad_chest_ct):
    path, _ = rad_chest_ct
    array, geometry = read_volume(path)
    np.testing.assert_array_equal(array[0], body)
    assert np.array_equal(geometry.affine, np.eye(4)) and geometry.spacing == (1, 1, 1)
    assert (geometry.source_orientation, geometry.axes_from) == ("IPL", "format")
    corner = np.asarray(geometry.source_affine) @ [1, 1, 1, 1]
    assert np.array_equal(corner[:3], [5, 4, 3]), "the stored voxel lies where the one in RAS does"
    loaded, _ = load_volume(path, preprocessing=OURS)
    assert np.unravel_index(loaded[0].argmax(), body.shape) == (5, 4, 3)


def test_rad_chest_ct_stays_as_released_under_the_released_record(rad_chest_ct):
    path, stored = rad_chest_ct
    loaded, geometry = load_volume(path, preprocessing=RELEASED)
    moved = stored.transpose(1, 2, 0)  # (y, x, z)
    assert loaded[0].shape == moved.shape and np.unravel_index(loaded[0].argmax(), moved.shape) == (1, 1, 1)
    expected = moved - np.float32(moved.mean(dtype=np.float64))
    np.testing.assert_allclose(loaded[0], expected / expected.std(), rtol=1e-4, atol=1e-5)
    assert geometry.orientation == "PLI"


@pytest.mark.parametrize("record", [OURS, RELEASED])
def test_masks_of_rad_chest_ct_go_back_to_its_own_shape_and_order(record, rad_chest_ct, tmp_path):
    path, stored = rad_chest_ct
    loaded, geometry = load_volume(path, preprocessing=record)
    mask = np.zeros(loaded[0].shape, dtype=np.uint8)
    mask[np.unravel_index(loaded[0].argmax(), mask.shape)] = 1
    saved = nib.load(save_mask(mask, geometry, tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), stored == 900)
    assert nib.aff2axcodes(saved.affine) == ("I", "P", "L")
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.nii.gz", geometry), mask)
    np.save(tmp_path / "mask.npy", np.asarray(saved.dataobj))
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.npy", geometry), mask)


def test_array_axes_say_what_an_array_is(body, tmp_path):
    stored, _ = as_orientation(body, "SLP")
    np.save(tmp_path / "a.npy", stored)
    array, geometry = read_volume(tmp_path / "a.npy", array_axes="SLP")
    np.testing.assert_array_equal(array[0], body)
    assert (geometry.source_orientation, geometry.axes_from) == ("SLP", "option")
    saved = nib.load(save_mask((array[0] == 900).astype(np.uint8), geometry, tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), stored == 900)
    _, assumed = read_volume(tmp_path / "a.npy")  # as the report does, which knows no options
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.nii.gz", assumed), stored == 900)
    kept, unknown = read_volume(tmp_path / "a.npy", array_axes="as_stored")
    np.testing.assert_array_equal(kept[0], stored)
    assert (unknown.orientation, unknown.axes_from) == ("as_stored", "nobody")
    with pytest.raises(VolumeError, match="array axes are 'XYZ'; give three axis codes"):
        read_volume(tmp_path / "a.npy", array_axes="XYZ")


def test_a_mask_of_another_shape_is_not_the_arrays(body, tmp_path):
    np.save(tmp_path / "a.npy", body)
    np.save(tmp_path / "mask.npy", np.ones((5, 6, 7)))
    with pytest.raises(VolumeError, match=r"mask\.npy: not on the grid"):
        read_label_map(tmp_path / "mask.npy", read_volume(tmp_path / "a.npy")[1])


def test_what_is_assumed_of_an_array_is_said_once(body, rad_chest_ct, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loading, "_warned", set())
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, body)
    with caplog.at_level(logging.WARNING):
        read_volume(tmp_path / "a.npy", array_axes="LPS")
        read_volume(tmp_path / "a.npy", array_axes="as_stored")
        assert not caplog.records
        for name in ("a.npy", "b.npy", "a.npy"):
            read_volume(tmp_path / name)
        read_volume(rad_chest_ct[0])
        read_volume(rad_chest_ct[0])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "a.npy" in said[0] and "taken as RAS" in said[0] and "--array_axes" in said[0]
    assert "spacing" in said[1] and "1 mm" in said[1]


def test_an_array_of_the_release_is_taken_as_it_is(tmp_path):
    """M3D's (1, 32, 256, 256) counts as (1, H, W, D), without a move."""
    array = np.random.default_rng(0).uniform(0, 1, (1, 4, 16, 12)).astype(np.float32)
    array[0, 0] = 0  # a crop to voxels > 0 would take this plane away
    np.save(tmp_path / "m3d.npy", array)
    np.savez(tmp_path / "sat.npz", array)
    for name in ("m3d.npy", "sat.npz"):
        loaded, geometry = load_volume(tmp_path / name, preprocessing=RELEASED)
        np.testing.assert_array_equal(loaded, array)
        assert geometry.source_shape == (4, 16, 12)


@pytest.mark.parametrize("shape", [(32, 256, 256), (1, 32, 256, 256)])
def test_an_array_of_m3ds_shape_has_its_slices_first(tmp_path, shape, caplog, monkeypatch):
    monkeypatch.setattr(loading, "_warned", set())
    array = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    np.save(tmp_path / "m3d.npy", array)
    loaded, geometry = read_volume(tmp_path / "m3d.npy")
    assert loaded.shape == (1, 256, 256, 32) and "M3D's shape" in caplog.text
    np.testing.assert_array_equal(loaded[0], array.reshape(32, 256, 256).transpose(2, 1, 0)[::-1, ::-1, ::-1])
    np.save(tmp_path / "mask.npy", array > 0.5)
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.npy", geometry), loaded[0] > 0.5)
    assert read_volume(tmp_path / "m3d.npy", array_axes="RAS")[0].shape == (1, 32, 256, 256)
    released, _ = load_volume(tmp_path / "m3d.npy", preprocessing=RELEASED)
    np.testing.assert_array_equal(released[0], array.reshape(32, 256, 256))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL", "SAR"])
def test_an_affine_of_axes_puts_the_lowest_corner_at_the_origin(codes):
    affine, shape = affine_of_axes(codes, (4, 5, 6)), np.array([4, 5, 6])
    assert "".join(nib.aff2axcodes(affine)) == codes
    corners = np.array([[*(index * (shape - 1)), 1] for index in np.ndindex(2, 2, 2)]) @ affine.T
    assert np.array_equal(corners.min(axis=0)[:3], [0, 0, 0])
