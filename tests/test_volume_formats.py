"""One CT written as every kind of file gives one volume, and masks lie on each of them."""

from __future__ import annotations

import shutil
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RTStructureSetStorage

from datasets.volume.loading import VolumeError, read_volume, save_mask
from tests.ct_files import (
    SPACING,
    as_orientation,
    gzipped_without_the_name,
    ras_affine,
    write_dicom,
    write_itk,
    write_nifti,
)
from tests.shared_data import shared_path


@pytest.fixture(scope="module")
def ct() -> np.ndarray:
    """A RAS volume (14, 11, 9) of even HU values without any symmetry."""
    return np.random.default_rng(1).integers(-512, 700, (14, 11, 9)).astype(np.int16) * 2


WRITERS = {
    "nifti RAS": lambda d, ras: write_nifti(d / "a.nii.gz", *as_orientation(ras, "RAS")),
    "nifti LPS": lambda d, ras: write_nifti(d / "a.nii", *as_orientation(ras, "LPS")),
    "nifti SAL": lambda d, ras: write_nifti(d / "a.nii.gz", *as_orientation(ras, "SAL")),
    "nifti IRP": lambda d, ras: write_nifti(d / "a.nii.gz", *as_orientation(ras, "IRP")),
    "nifti 2": lambda d, ras: write_nifti(d / "a.nii", *as_orientation(ras, "LAS"), nib.Nifti2Image),
    "nifti pair": lambda d, ras: write_nifti(d / "a.hdr", *as_orientation(ras, "LPS"), nib.Nifti1Pair),
    "nifti 4D": lambda d, ras: write_nifti(d / "a.nii.gz", ras[..., None], ras_affine()),
    "nifti 5D": lambda d, ras: write_nifti(d / "a.nii.gz", ras[..., None, None], ras_affine()),
    "nifti zipped as .nii": lambda d, ras: gzipped_without_the_name(d / "a.nii", ras),
    "nrrd LPS": lambda d, ras: write_itk(d / "a.nrrd", ras, True, compress=True),
    "nrrd RAS": lambda d, ras: write_itk(d / "a.nrrd", ras, False),
    "nrrd by content": lambda d, ras: write_itk(d / "a.nrrd", ras, False).rename(d / "unnamed"),
    "mha": lambda d, ras: write_itk(d / "a.mha", ras, True, compress=True),
    "mhd": lambda d, ras: write_itk(d / "a.mhd", ras, False),
    "dicom": lambda d, ras: write_dicom(d / "series", ras),
    "dicom, slope 1": lambda d, ras: write_dicom(d / "series", ras, slope=1, intercept=0, seed=4),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_same_volume_from_every_kind(writer, ct, tmp_path):
    array, geometry = read_volume(WRITERS[writer](tmp_path, ct))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], ct)
    np.testing.assert_allclose(geometry.affine, ras_affine(), atol=1e-4)
    np.testing.assert_allclose(geometry.spacing, SPACING, rtol=1e-5)


def test_arrays_without_an_affine_are_kept_as_they_are(ct, tmp_path):
    np.save(tmp_path / "a.npy", ct)
    np.save(tmp_path / "channel.npy", ct[None])
    np.savez(tmp_path / "one.npz", volume=ct)
    for name in ("a.npy", "channel.npy", "one.npz"):
        array, geometry = read_volume(tmp_path / name)
        np.testing.assert_array_equal(array[0], ct)
        assert np.array_equal(geometry.affine, np.eye(4))
        assert geometry.source_orientation == "RAS"


def test_as_stored_and_other_orientations(ct, tmp_path):
    stored, affine = as_orientation(ct, "SAL")
    path = write_nifti(tmp_path / "a.nii.gz", stored, affine)
    array, geometry = read_volume(path, orientation="as_stored")
    np.testing.assert_array_equal(array[0], stored)
    np.testing.assert_allclose(geometry.affine, affine, atol=1e-4)
    assert (geometry.source_orientation, geometry.orientation) == ("SAL", "as_stored")
    array, geometry = read_volume(path, orientation="LPI")
    np.testing.assert_array_equal(array[0], as_orientation(ct, "LPI")[0])
    np.testing.assert_allclose(geometry.affine, as_orientation(ct, "LPI")[1], atol=1e-4)
    for wrong in ("RA", "RRS", "ras", "XYZ"):
        with pytest.raises(VolumeError, match="orientation"):
            read_volume(path, orientation=wrong)


def test_nifti_scaling_is_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    raw = np.frombuffer((tmp_path / "a.nii").read_bytes()[-120:], dtype="<i2").reshape(3, 4, 5, order="F")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii")[0][0], raw * 0.5 - 10)


@pytest.mark.parametrize("writer", ["nifti SAL", "nrrd LPS", "nrrd RAS", "mha", "dicom"])
def test_saved_mask_overlays_its_source_for_simpleitk(writer, ct, tmp_path):
    """A second reader finds size, origin, spacing and direction and voxels equal to the source's."""
    path = WRITERS[writer](tmp_path, ct)
    array, geometry = read_volume(path)
    mask = sitk.ReadImage(str(save_mask(array[0] > 100, geometry, tmp_path / "mask.nii.gz")))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    source = sitk.ReadImage(names)
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert mask.GetSize() == source.GetSize()
    for field in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, field)(), getattr(source, field)(), atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(source) > 100)


def test_dicom_ignores_other_files_and_objects_without_pixels(ct, tmp_path):
    folder = write_dicom(tmp_path / "s", ct)
    (folder / "notes.txt").write_text("a note")
    (folder / "._000_0.dcm").write_bytes(b"what macOS leaves on other file systems" * 9)
    (folder / "sub").mkdir()
    structure = pydicom.dcmread(next(folder.glob("0*.dcm")))
    for name in ("PixelData", "Rows", "Columns"):
        delattr(structure, name)
    structure.SeriesInstanceUID = "1.2.3"
    structure.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    structure.save_as(folder / "structures.dcm")
    np.testing.assert_array_equal(read_volume(folder)[0][0], ct)


def test_dicom_oblique_and_tilted_against_positions(tmp_path, ct):
    """Every voxel's world position is that of its own slice's header, also where slices are sheared (gantry tilt)."""
    folder = write_dicom(tmp_path / "s", ct)
    angle = np.deg2rad(12)
    row, column = [np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [*row, *column]
        position = [float(v) for v in data.ImagePositionPatient]
        data.ImagePositionPatient = [position[0], position[1] + 0.3 * position[2], position[2]]
        data.save_as(path)
    with pytest.warns(UserWarning, match=r"tilted by 16\.7 degrees"):  # arctan 0.3
        array, geometry = read_volume(folder)
    to_index = np.linalg.inv(geometry.affine)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        for r, c in ((0, 0), (3, 7), (10, 2)):
            lps = np.array(data.ImagePositionPatient, dtype=float)
            lps += np.array(row) * SPACING[0] * c + np.array(column) * SPACING[1] * r
            index = to_index @ [-lps[0], -lps[1], lps[2], 1]
            np.testing.assert_allclose(index, np.round(index), atol=1e-6)
            i, j, k = np.round(index[:3]).astype(int)
            assert array[0, i, j, k] == data.pixel_array[r, c] * 2 - 1024


def test_dicom_slightly_uneven_spacing_warns(tmp_path, ct):
    folder = write_dicom(tmp_path / "s", ct)
    path = max(folder.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
    data = pydicom.dcmread(path)
    data.ImagePositionPatient[2] += 0.5
    data.save_as(path)
    with pytest.warns(UserWarning, match="spacing varies from 2.50 to 3.00 mm"):
        read_volume(folder)


def test_real_dicom_equals_simpleitk(monkeypatch):
    folder = shared_path("data", "real_ct", "example_ct_dicom")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array, geometry = read_volume(folder, orientation="as_stored")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(array[0], sitk.GetArrayFromImage(image).T)
    for index in ((0, 0, 0), (511, 3, 19), (40, 500, 7)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((np.array(geometry.affine) @ [*index, 1])[:3], (-x, -y, z), atol=1e-6)

    # without any decoder of pydicom's, SimpleITK gives the same voxels
    def no_decoder(self):
        raise RuntimeError("no decoder")

    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(no_decoder))
    np.testing.assert_array_equal(read_volume(folder, orientation="as_stored")[0], array)


def test_kind_does_not_depend_on_names_in_the_path(ct, tmp_path):
    folder = tmp_path / "RadChestCT.npz" / "CT-RATE.nrrd"
    folder.mkdir(parents=True)
    path = write_nifti(tmp_path / "a.nii.gz", ct, ras_affine())
    np.testing.assert_array_equal(read_volume(shutil.copy(path, folder / "scan.nii.gz"))[0][0], ct)
    np.testing.assert_array_equal(read_volume(shutil.copy(path, folder / "scan"))[0][0], ct)
