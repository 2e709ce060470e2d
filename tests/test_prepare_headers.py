"""Headers of every kind of file say what reading the voxels says; damaged files are named without reading them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datasets.prepare.headers import FileHeader, corner_distance, read_header
from datasets.volume.geometry import VolumeError
from datasets.volume.readers import read_raw
from tests.ct_files import as_orientation, write_dicom, write_itk, write_nifti

RAS = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)


def files(folder):
    array, affine = as_orientation(RAS, "LPS")
    np.save(folder / "a.npy", RAS[None])
    np.savez(folder / "ct.npz", ct=RAS)
    return {
        "nii.gz": write_nifti(folder / "a.nii.gz", array, affine),
        "nii": write_nifti(folder / "b.nii", array, affine),
        "nifti 2": write_nifti(folder / "c.nii.gz", array, affine, nib.Nifti2Image),
        "mha": write_itk(folder / "d.mha", RAS, True),
        "mhd": write_itk(folder / "e.mhd", RAS, False),
        "nrrd": write_itk(folder / "f.nrrd", RAS, True),
        "dicom": write_dicom(folder / "dicom", RAS),
        "npy": folder / "a.npy",
        "npz": folder / "ct.npz",
    }


def test_shape_and_place_are_those_of_the_whole_file(tmp_path):
    for kind, path in files(tmp_path).items():
        header, raw = read_header(path), read_raw(path)
        assert header.shape == raw.array.shape, kind
        if kind in ("npy", "npz"):
            assert header.affine is None
        else:
            np.testing.assert_allclose(header.affine, raw.affine, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("kind", ["nii.gz", "nii", "nifti 2", "npy", "npz"])
def test_a_file_that_is_cut_off_is_named(tmp_path, kind):
    path = files(tmp_path)[kind]
    content = path.read_bytes()
    for kept in (len(content) - 1, len(content) - 40, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(VolumeError, match=r"download it again|damaged or truncated"):
            read_header(path)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_voxels_that_are_cut_off_are_named_though_the_header_is_whole(tmp_path, name, compress):
    path = write_itk(tmp_path / name, RAS, True, compress)
    assert read_header(path).shape == RAS.shape
    data = max(tmp_path.iterdir(), key=lambda file: (file.suffix in (".raw", ".zraw", ".gz"), file == path))
    content = data.read_bytes()
    for kept in (len(content) - 1, len(content) - 40):
        data.write_bytes(content[:kept])
        with pytest.raises(VolumeError, match="truncated"):
            read_header(path)
    data.write_bytes(content + bytes(8))
    assert read_header(path).shape == RAS.shape


def test_a_dicom_slice_that_is_cut_off_is_named(tmp_path):
    series = write_dicom(tmp_path / "dicom", RAS)
    slice_file = sorted(series.iterdir())[2]
    slice_file.write_bytes(slice_file.read_bytes()[:-20])
    with pytest.raises(VolumeError, match=f"{slice_file.name}: damaged or truncated DICOM slice"):
        read_header(series)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii.gz", b"", "is empty"),
        ("a.nii.gz", b"<html>", "no gzip|no NIfTI"),
        ("a.nii", b"x" * 400, "no NIfTI header"),
        ("a.npz", b"PK\x03\x04 and no more", "truncated"),
        ("a.png", b"no picture", "no PNG or JPEG"),
        ("a.mhd", b"NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = a.raw\n", "a.raw"),
        ("a.nrrd", b"NRRD0004\n", "header cannot be read"),
    ],
)
def test_what_is_not_what_its_name_says(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=words) as raised:
        read_header(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name)) and "\n" not in str(raised.value)


def test_what_is_no_single_volume_is_named(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.zeros((3, 3, 3, 2), np.int16), np.eye(4))
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 3, 3)))
    for path in tmp_path.iterdir():
        with pytest.raises(VolumeError, match="holds 4D data"):
            read_header(path)
    assert read_header(write_nifti(tmp_path / "b.nii", np.zeros((3, 3, 3, 1), np.int16), np.eye(4))).shape == (3, 3, 3)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(VolumeError, match="no such file"):
        read_header(tmp_path / "a.nii.gz")
    (tmp_path / "series").mkdir()
    with pytest.raises(VolumeError, match="folder is empty"):
        read_header(tmp_path / "series")


def test_pictures_and_folders_of_them(tmp_path):
    (tmp_path / "scan").mkdir()
    for number in range(3):
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(tmp_path / "scan" / f"{number:04d}.png")
    assert read_header(tmp_path / "scan" / "0000.png") == FileHeader("PNG", (4, 6))
    assert read_header(tmp_path / "scan") == FileHeader("slices", (4, 6, 3))
    (tmp_path / "scan" / "0002.png").write_bytes((tmp_path / "scan" / "0000.png").read_bytes()[:-5])
    with pytest.raises(VolumeError, match="ends in IEND"):
        read_header(tmp_path / "scan" / "0002.png")


def test_distance_of_a_mask_whatever_its_axes():
    array, affine = as_orientation(RAS, "LPS")
    image = FileHeader("NIfTI", array.shape, affine)
    turned, turned_affine = as_orientation(RAS, "SRA")
    assert corner_distance(image, FileHeader("NIfTI", turned.shape, turned_affine)) == pytest.approx(0, abs=1e-9)
    shifted = turned_affine.copy()
    shifted[0, 3] += 0.3 * 0.8  # of the 0.8 mm along x
    assert corner_distance(image, FileHeader("NIfTI", turned.shape, shifted)) == pytest.approx(0.3)
    assert corner_distance(image, FileHeader("NIfTI", (7, 6, 4), affine)) is None
    assert corner_distance(FileHeader("npz", (7, 6, 5)), image) == 0
    assert corner_distance(FileHeader("npz", (5, 6, 7)), image) is None
