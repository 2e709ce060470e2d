"""DICOM studies as scanners and archives leave them: several series in a folder, enhanced CT, compressed voxels."""

from __future__ import annotations

import json
import locale
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import EnhancedCTImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from datasets.manifest import ManifestError, load_manifest
from datasets.manifest_check.check import check_manifests
from datasets.manifest_check.needs import sources_of
from datasets.prepare.headers import read_header
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.volume.dicom_series import read_dicom_series, series_path
from datasets.volume.find_volumes import find_volumes
from datasets.volume.loading import VolumeError, read_volume
from tests.ct_files import ras_affine, write_dicom


@pytest.fixture(scope="module")
def ct() -> np.ndarray:
    return np.random.default_rng(1).integers(-512, 700, (14, 11, 9)).astype(np.int16) * 2


def edit(folder: Path, change) -> Path:
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path)
    return folder


def study(folder: Path, ct: np.ndarray) -> Path:
    """Two CT series, a scout, a PET series and a report in one folder, as a CD has them."""
    write_dicom(folder, ct, series="1.2.3.1")
    edit(folder, lambda data: (setattr(data, "SeriesNumber", 4), setattr(data, "SeriesDescription", "Lung 1.0")))
    write_dicom(folder, ct + 2, series="1.2.3.2", seed=1)
    for name, uid, modality, kept in (("scout", "1.2.3.3", "CT", 1), ("pet", "1.2.3.4", "PT", 9)):
        other = edit(
            write_dicom(folder.parent / name, ct, series=uid), lambda data, m=modality: setattr(data, "Modality", m)
        )
        for path in sorted(other.iterdir())[:kept]:
            shutil.copy(path, folder / f"{name}_{path.name}")
    return folder


def test_one_of_several_series_is_chosen(ct, tmp_path):
    folder = study(tmp_path / "cd", ct)
    with pytest.raises(VolumeError, match="4 DICOM series; choose one by --series") as caught:
        read_volume(folder)
    for named in ("1.2.3.1 (9 files, CT, number 4, Lung 1.0)", "1.2.3.4 (9 files, PT)"):
        assert named in str(caught.value)
    np.testing.assert_array_equal(read_volume(series_path(folder, "4"))[0][0], ct)
    array, geometry = read_volume(folder / "1.2.3.2")
    np.testing.assert_array_equal(array[0], ct + 2)
    np.testing.assert_allclose(geometry.affine, ras_affine(), atol=1e-4)
    with pytest.raises(VolumeError, match=r"modality is PT"):
        read_volume(folder / "1.2.3.4")
    with pytest.raises(VolumeError, match=r"no series 1\.2\.3\.9, but 1\.2\.3\.1 \(9 files"):
        read_volume(folder / "1.2.3.9")
    with pytest.raises(VolumeError, match=r"7 names no series of it; it holds 1\.2\.3\.1"):
        series_path(folder, "7")
    assert find_volumes(folder) == [str(folder / "1.2.3.1"), str(folder / "1.2.3.2")]


def test_a_manifest_names_one_of_several_series(ct, tmp_path):
    """By the folder and its UID, as --images lists it; through the check, the loader and its cache."""
    folder = study(tmp_path / "cd", ct)
    manifest = tmp_path / "asked.json"
    rows = [{"question": "What?", "image_path": f"cd/1.2.3.{number}", "answer": "Air."} for number in (1, 2)]
    manifest.write_text(json.dumps(rows), encoding="utf-8")
    assert [record.image_path for record in load_manifest(manifest)] == [[str(folder / f"1.2.3.{n}")] for n in (1, 2)]
    header = read_header(folder / "1.2.3.2")
    assert header.kind == "DICOM series" and header.shape == ct.shape
    (report,) = check_manifests(sources_of(manifest))
    assert not report.faults
    pretraining = tmp_path / "one_image_text_train.json"
    pretraining.write_text(json.dumps([{"image_path": "cd/1.2.3.1", "report": "Air."}]), encoding="utf-8")
    assert len(load_pretraining_manifest(pretraining, "image_text")) == 1
    manifest.write_text(json.dumps([{**rows[0], "image_path": "nowhere/1.2.3.1"}]), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"no such file: .*nowhere/1\.2\.3\.1"):
        load_manifest(manifest)


def enhanced(path: Path, ct: np.ndarray, tilt: float = 0.0) -> Path:
    """One enhanced CT file with its frames in shuffled order; the even ones have a rescale of their own."""
    path.parent.mkdir(exist_ok=True)
    slices = write_dicom(path.parent / "single", ct, slope=2, intercept=-1024)
    first = pydicom.dcmread(min(slices.iterdir()))
    order = sorted(slices.iterdir())
    data, voxels, frames = pydicom.dcmread(min(slices.iterdir())), [], []
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(data, name)
    for number, source in enumerate(map(pydicom.dcmread, order)):
        frame, place, rescale = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position = [float(v) for v in source.ImagePositionPatient]
        place.ImagePositionPatient = [position[0], position[1] + tilt * position[2], position[2]]
        frame.PlanePositionSequence = [place]
        rescale.RescaleSlope, rescale.RescaleIntercept = (1, -1024) if number % 2 else (2, -1024)
        frame.PixelValueTransformationSequence = [rescale]
        voxels.append(source.pixel_array * (2 if number % 2 else 1))
        frames.append(frame)
    shared, plane, measures = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames, data.SOPInstanceUID = len(frames), generate_uid()
    data.PixelData = np.stack(voxels).astype("<i2").tobytes()
    data.save_as(path)
    shutil.rmtree(slices)
    return path


def test_an_enhanced_ct_is_read_from_its_file_and_its_folder(ct, tmp_path):
    path = enhanced(tmp_path / "enhanced.dcm", ct)
    for place in (path, path.parent):
        array, geometry = read_volume(place)
        np.testing.assert_array_equal(array[0], ct)
        np.testing.assert_allclose(geometry.affine, ras_affine(), atol=1e-4)
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[2:4]
    data.save_as(path)
    with pytest.raises(VolumeError, match="whose frames have no place"):
        read_volume(path)


def test_a_tilted_enhanced_ct_keeps_its_shear(ct, tmp_path):
    path = enhanced(tmp_path / "enhanced.dcm", ct, tilt=0.3)
    with pytest.warns(UserWarning, match=r"tilted by 16\.7 degrees"):  # arctan 0.3
        affine = read_dicom_series(path)[1]
    np.testing.assert_allclose(affine[:3, 2], [0, -0.3 * 2.5, 2.5], atol=1e-5)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_series_have_the_voxels_of_plain_ones(syntax, ct, tmp_path):
    wide = ct.repeat(4, axis=0).repeat(4, axis=1)  # JPEG 2000 halves a picture five times
    folder = write_dicom(tmp_path / "s", wide)
    edit(folder, lambda data: data.compress(syntax))
    assert pydicom.dcmread(min(folder.iterdir())).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_volume(folder)[0][0], wide)


def test_jpeg_lossless_is_left_to_simpleitk(ct, tmp_path):
    """pydicom's free decoders do not know the JPEG of older archives (1.2.840.10008.1.2.4.70); GDCM does."""
    folder = write_dicom(tmp_path / "s", ct, slope=1, intercept=0)
    before = locale.setlocale(locale.LC_ALL)
    for path in folder.iterdir():
        image = sitk.ReadImage(str(path))
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(path))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves C behind, and text would be ASCII for later tests
    data = pydicom.dcmread(min(folder.iterdir()))
    assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    np.testing.assert_array_equal(read_volume(folder)[0][0], ct)
    assert locale.setlocale(locale.LC_ALL) == before
