"""Masks that are written anew on their image's grid: by known voxels, sizes that do not fit, and what is made twice."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

from datasets.prepare.case import Case, Mask
from datasets.prepare.mask_conversion import convert, resample
from datasets.volume.dicom_series import read_dicom_series
from datasets.volume.geometry import VolumeError
from datasets.volume.readers import read_raw
from tests.ct_files import ras_affine, write_dicom

SHAPE = (12, 10, 6)  # along RAS axes; 12 columns and 10 rows
MARK = (2, 7, 1)  # patient's left, front, low


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A DICOM series in soft tissue, with one voxel of 300 HU in the patient's left, front and lower part."""
    hu = np.zeros(SHAPE, dtype=np.int16)
    hu[MARK] = 300
    return write_dicom(tmp_path / "series", hu, slope=1)


def marked(path: Path) -> np.ndarray:
    """Where the only voxel of a mask lies in the patient, in RAS millimetres."""
    raw = read_raw(path)
    (voxel,) = np.argwhere(raw.array)
    return (raw.affine @ [*voxel, 1])[:3]


def test_rows_and_columns_of_matlab_are_those_of_the_slices(series: Path, tmp_path: Path) -> None:
    array, affine = read_dicom_series(series)
    column, row, level = np.argwhere(array == 300)[0]
    mask = np.zeros((10, 12, 6), dtype=np.uint8)
    mask[row, column, level] = 1
    savemat(tmp_path / "PAT001.mat", {"Mask": mask})
    rule = Mask((tmp_path / "PAT001.mat",), (1,), "rotated_matlab")
    made = convert(rule, series, Case("PAT001", "PAT001", series), tmp_path / "made.nii.gz")
    np.testing.assert_allclose(marked(made), (affine @ [column, row, level, 1])[:3], atol=1e-4)
    np.testing.assert_allclose(marked(made), (ras_affine() @ [*MARK, 1])[:3], atol=1e-4)
    assert read_raw(made).array.dtype == np.float32 and nib.load(made).get_data_dtype() == np.uint8


def test_arrays_that_lie_otherwise_are_placed_where_the_image_shows_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A block that stands out in a noisy square body, whose mask is turned, flipped or reversed against the rules."""
    rng = np.random.default_rng(0)
    truth = np.zeros((24, 24, 10), dtype=bool)
    truth[3:7, 13:16, 6:8] = True
    hu = np.where(truth, 90, 30) + rng.normal(0, 15, truth.shape)
    hu[:2] = -1000
    hu[12:22, 2:9, 1:5] = -700
    series = write_dicom(tmp_path / "series", hu.astype(np.int16), slope=1)
    rows_and_columns = np.flip(truth, (0, 1)).transpose(1, 0, 2)  # as MATLAB has it; RAS to the rows of the slices
    stored = np.flip(truth, (0, 1))  # columns, rows, slices
    affine = np.array([[-0.8, 0, 0, 6.4], [0, -0.9, 0, 50.7], [0, 0, 2.5, -400], [0, 0, 0, 1]])
    case = Case("a", "a", series)
    for name, turned in [
        ("plain", rows_and_columns),
        ("turned", np.rot90(rows_and_columns)),
        ("flipped", rows_and_columns[::-1]),
        ("upside down", rows_and_columns[:, :, ::-1]),
    ]:
        caplog.clear()
        savemat(tmp_path / f"{name}.mat", {"Mask": turned.astype(np.uint8)})
        rule = Mask((tmp_path / f"{name}.mat",), (1,), "rotated_matlab")
        made = convert(rule, series, case, tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(read_raw(made).array > 0, stored, err_msg=name)
        assert bool(caplog.records) == (name != "plain")
    for name, array, place in [
        ("reversed", stored[:, :, ::-1], np.eye(4)),
        ("placed", stored, affine),
        ("placed but reversed", stored[:, :, ::-1], affine),
        ("as the series", stored, np.eye(4)),
    ]:
        caplog.clear()
        path = tmp_path / f"{name} label.nii.gz"
        nib.save(nib.Nifti1Image(np.ascontiguousarray(array.astype(np.uint8)), place), path)
        made = convert(Mask((path,), (1,), "reversed_slices"), series, case, tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(read_raw(made).array > 0, stored, err_msg=name)
        assert bool(caplog.records) == (name in ("placed but reversed", "as the series"))


def test_a_label_without_a_place_has_its_slices_reversed(series: Path, tmp_path: Path) -> None:
    array, _ = read_dicom_series(series)
    label = np.ascontiguousarray((array == 300)[:, :, ::-1].astype(np.uint8))
    nib.save(nib.Nifti1Image(label, np.diag([0.8, 0.9, 2.5, 1])), tmp_path / "label.nii.gz")
    rule = Mask((tmp_path / "label.nii.gz",), (1,), "reversed_slices")
    made = convert(rule, series, Case("a", "a", series), tmp_path / "made.nii.gz")
    np.testing.assert_allclose(marked(made), (ras_affine() @ [*MARK, 1])[:3], atol=1e-4)


def test_a_label_that_lies_on_its_series_stays_where_it_is(series: Path, tmp_path: Path) -> None:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[MARK] = 3
    nib.save(nib.Nifti1Image(label, ras_affine()), tmp_path / "label.nii.gz")
    rule = Mask((tmp_path / "label.nii.gz",), (3,), "reversed_slices")
    made = convert(rule, series, Case("a", "a", series), tmp_path / "made.nii.gz")
    np.testing.assert_allclose(marked(made), (ras_affine() @ [*MARK, 1])[:3], atol=1e-4)
    assert read_raw(made).array.max() == 3


def test_a_mask_of_another_size_is_refused(series: Path, tmp_path: Path) -> None:
    savemat(tmp_path / "PAT001.mat", {"Mask": np.ones((10, 12, 5), dtype=np.uint8)})
    nib.save(nib.Nifti1Image(np.ones((12, 10, 5), dtype=np.uint8), np.eye(4)), tmp_path / "label.nii.gz")
    case, target = Case("a", "a", series), tmp_path / "made.nii.gz"
    with pytest.raises(VolumeError, match=r"shape \(10, 12, 5\), but its series has 10 rows, 12 columns and 6 slices"):
        convert(Mask((tmp_path / "PAT001.mat",), (1,), "rotated_matlab"), series, case, target)
    with pytest.raises(VolumeError, match=r"shape \(12, 10, 5\), but its series has shape \(12, 10, 6\)"):
        convert(Mask((tmp_path / "label.nii.gz",), (1,), "reversed_slices"), series, case, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"", "cannot be read as a MATLAB file"), (None, "no variable Mask")]
)
def test_a_file_without_the_mask_is_named(series: Path, tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "PAT001.mat"
    if content is None:
        savemat(path, {"Image": np.ones((10, 12, 6))})
    else:
        path.write_bytes(content)
    with pytest.raises(VolumeError, match=complaint):
        convert(Mask((path,), (1,), "rotated_matlab"), series, Case("a", "a", series), tmp_path / "made.nii.gz")


def block(shape: tuple[int, int, int], affine: np.ndarray, values: tuple[int, int]) -> np.ndarray:
    """Labels of two halves of a cube of 21 mm in the patient, on any grid."""
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inside = (abs(points) <= 10.5).all(axis=-1)
    return np.where(inside, np.where(points[..., 0] < 0, *values), 0)


def test_resampling_puts_each_label_where_it_is_in_the_patient(tmp_path: Path) -> None:
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = -15
    coarse = np.diag([-3.0, 2.5, 2.0, 1.0])  # along other axes, too
    coarse[:3, 3] = (16.3, -16.2, -15.8)
    image = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(12 * 14 * 16, dtype=np.float32).reshape(12, 14, 16), coarse), image)
    nib.save(nib.Nifti1Image(block((31, 31, 31), fine, (420, 7)).astype(np.int16), fine), tmp_path / "mask.nii.gz")
    made = resample(tmp_path / "mask.nii.gz", image, tmp_path / "made.nii.gz")
    raw = read_raw(made)
    np.testing.assert_allclose(raw.affine, coarse, atol=1e-5)
    np.testing.assert_array_equal(raw.array, block((12, 14, 16), coarse, (420, 7)))


def test_soft_masks_and_masks_beside_the_image_are_not_resampled(tmp_path: Path) -> None:
    image = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4)), image)
    for name, value, shift, complaint in [("soft", 0.97, 0, "whole numbers"), ("far", 1, 500, "lies nowhere on")]:
        affine = np.eye(4)
        affine[:3, 3] = shift
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, dtype=np.float32), affine), path)
        with pytest.raises(VolumeError, match=complaint):
            resample(path, image, tmp_path / "made.nii.gz")
    np.save(tmp_path / "array.npy", np.ones((3, 4, 5), dtype=np.uint8))
    with pytest.raises(VolumeError, match="does not say where its voxels lie"):
        resample(tmp_path / "array.npy", image, tmp_path / "made.nii.gz")


def test_what_is_made_is_not_made_again_and_would_be_the_same_bytes(tmp_path: Path) -> None:
    image, mask, target = (tmp_path / f"{name}.nii.gz" for name in ("image", "mask", "made"))
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4)), image)
    nib.save(nib.Nifti1Image(np.ones((6, 8, 10), dtype=np.uint8), np.diag([0.5, 0.5, 0.5, 1])), mask)
    resample(mask, image, target)
    first, made = target.read_bytes(), target.stat().st_mtime_ns
    resample(mask, image, target)
    assert target.stat().st_mtime_ns == made
    target.unlink()
    resample(mask, image, target)
    assert target.read_bytes() == first
    assert [path.name for path in tmp_path.glob(".*")] == []
