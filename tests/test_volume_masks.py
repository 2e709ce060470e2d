"""Mask files: read onto the grid of a loaded volume, refused if they do not lie on it, written on the source's."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from datasets.volume import mask_rules
from datasets.volume.geometry import corner_offset
from datasets.volume.loading import VolumeError, load_volume, read_mask, read_volume, restore_to_source, save_mask
from tests.ct_files import random_affine
from tests.ct_files import write_nifti as write
from tests.shared_data import shared_path


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
        affine[0, 3] = 0.55
    if change == "spacing":
        affine[2, 2] = 1.11
    mask = write(tmp_path / "mask.nii.gz", array[:3] if change == "shape" else array, affine)
    _, geometry = read_volume(source)
    said = {
        "shape": r"shape \(3, 5, 6\), .*shape \(4, 5, 6\), .*mm; resample",
        "shift": r"first voxel at \(0\.550, 0\.000.*first voxel at \(0\.000.*0\.55 voxels off",
        "spacing": r"spacing 1 x 1 x 1\.11 mm.*spacing 1 x 1 x 1 mm.*0\.55 voxels off",
    }[change]
    with pytest.raises(VolumeError, match=rf"mask\.nii\.gz.*ct\.nii\.gz.*{said}.*--resample_masks"):
        read_mask(mask, geometry)


def test_a_mask_less_than_half_a_voxel_off_is_taken_voxel_by_voxel_and_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mask_rules, "_warned", set())
    array = np.random.default_rng(0).integers(0, 3, (40, 50, 60)).astype(np.int16)
    affine = random_affine("LPS", (0.7, 0.7, 1.25), np.random.default_rng(0), 20)
    _, geometry = read_volume(write(tmp_path / "ct.nii.gz", array, affine))
    shifted, stretched = affine.copy(), affine @ np.diag([1.0003, 1, 1.0003, 1])
    shifted[:3, 3] += affine[:3, :3] @ (0.06, -0.4, 0)
    for name, moved in (("shifted", shifted), ("stretched", stretched), ("again", shifted)):
        mask = write(tmp_path / f"{name}.nii.gz", array, moved)
        np.testing.assert_array_equal(read_mask(mask, geometry)[0], geometry.from_source(array) != 0)
    assert len(caplog.records) == 1 and "shifted.nii.gz: its header places it 0.40 voxels off" in caplog.text


def test_the_offset_of_two_grids_is_in_voxels_of_the_first():
    affine = np.diag([2.0, 2, 5, 1])
    moved = affine.copy()
    moved[2, 3] = 2.0
    assert corner_offset((9, 9, 9), affine, (9, 9, 9), moved) == pytest.approx(0.4)
    assert corner_offset((11, 9, 9), affine, (11, 9, 9), affine @ np.diag([1.01, 1, 1, 1])) == pytest.approx(0.1)
    assert corner_offset((9, 9, 9), affine, (9, 9, 8), affine) == np.inf


def test_labels_of_a_coarse_slope_are_rounded(tmp_path):
    """CT-ORG's files: float labels 0..6 written as uint8 with slope 6/255."""
    labels = np.random.default_rng(0).integers(0, 7, (4, 5, 6))
    _, geometry = read_volume(write(tmp_path / "ct.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4)))
    image = nib.Nifti1Image(np.round(labels * 255 / 6).astype(np.uint8), np.eye(4))
    image.header.set_slope_inter(6 / 255, 0)
    nib.save(image, tmp_path / "mask.nii.gz")
    stored = nib.load(tmp_path / "mask.nii.gz").get_fdata()
    assert np.abs(stored - labels).max() > 0.01
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", geometry, values=[1, 3, 6])[1], labels == 3)


@pytest.mark.parametrize(("high", "cut"), [(0.97, "0.5"), (0.4, "0.2"), (254.7, "127.35")])
def test_a_soft_mask_is_refused_with_its_values_and_where_to_cut(tmp_path, high, cut):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    _, geometry = read_volume(write(tmp_path / "ct.nii.gz", array, np.eye(4)))
    soft = write(tmp_path / "soft.nii.gz", (array > 60).astype(np.float32) * np.float32(high), np.eye(4))
    with pytest.raises(VolumeError, match=rf"soft\.nii\.gz: .*\(0, {high}\).* above {cut}$"):
        read_mask(soft, geometry)


def test_header_rounding_is_no_other_grid(tmp_path):
    affine = random_affine("LPS", (0.7, 0.7, 1.25), np.random.default_rng(0), 20)
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    _, geometry = read_volume(write(tmp_path / "ct.nii.gz", array, affine))
    read_mask(write(tmp_path / "mask.nii.gz", array, np.round(affine, 3)), geometry)


def test_labels_are_whole_numbers_up_to_the_rounding_of_a_slope(tmp_path):
    source = write(tmp_path / "ct.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    _, geometry = read_volume(source)
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.float32)
    mask = write(tmp_path / "mask.nii.gz", labels * np.float32(0.9999999), np.eye(4))
    np.testing.assert_array_equal(read_mask(mask, geometry, values=[1, 2])[1], labels == 2)
    for wrong in (0.5, np.nan, np.inf):
        labels[1, 2, 3] = wrong
        with pytest.raises(VolumeError, match=r"mask\.nii\.gz: .*no whole numbers"):
            read_mask(write(tmp_path / "mask.nii.gz", labels, np.eye(4)), geometry)


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
