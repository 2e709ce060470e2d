"""Every unusable volume is refused in one clear line that names the file."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import JPEGLSLossless

from datasets.volume.loading import VolumeError, read_volume
from tests.ct_files import write_dicom, write_itk, write_nifti


def _series(folder: Path, **options) -> Path:
    return write_dicom(folder, np.random.default_rng(0).integers(-500, 500, (6, 5, 8)).astype(np.int16) * 2, **options)


def _good(shape=(6, 5, 4)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def _truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(-500, 500, (20, 20, 20)).astype(np.int16)
    if path.name.endswith((".nii", ".nii.gz")):
        write_nifti(path, noise, np.eye(4))
    elif path.suffix in (".npy", ".npz"):
        (np.save if path.suffix == ".npy" else np.savez)(path, noise)
    else:
        write_itk(path, noise, True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _array(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _with_nan(value: float) -> np.ndarray:
    array = _good()
    array[1, 2, 3] = value
    return array


def _singular(path: Path) -> Path:
    content = bytearray(write_nifti(path, _good(), np.eye(4)).read_bytes())
    content[296:312] = content[280:296]  # srow_y = srow_x
    return _bytes(path, bytes(content))


def _two_arrays(path: Path) -> Path:
    np.savez(path, first=_good(), second=_good())
    return path


def _mixed_series(folder: Path) -> Path:
    _series(folder, series="1.2.3.111")
    return _series(folder, series="1.2.3.222", seed=1)


def _missing_slice(folder: Path) -> Path:
    by_position = sorted(_series(folder).iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
    by_position[3].unlink()
    return folder


def _doubled_slices(folder: Path) -> Path:
    _series(folder, series="1.2.3.4")
    return _series(folder, series="1.2.3.4", seed=1)


def _edited(folder: Path, edit) -> Path:
    path = sorted(_series(folder).iterdir())[2]
    data = pydicom.dcmread(path)
    edit(data)
    data.save_as(path)
    return folder


def _short_pixels(data: pydicom.Dataset) -> None:
    data.PixelData = data.PixelData[:20]


def _larger(data: pydicom.Dataset) -> None:
    data.Columns, data.PixelData = data.Columns * 2, data.PixelData * 2


def _undecodable(data: pydicom.Dataset) -> None:
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\x00\x01" * 40])
    data["PixelData"].is_undefined_length = True


def _one_slice(folder: Path, keep_folder: bool) -> Path:
    paths = sorted(_series(folder).iterdir())
    for path in paths[1:]:
        path.unlink()
    return folder if keep_folder else paths[0]


def _folder_of_text(folder: Path) -> Path:
    folder.mkdir()
    (folder / "readme.txt").write_text("no CT here")
    return folder


def _cut_to(folder: Path, size: int) -> Path:
    """The last slice, whose loss leaves no gap, shortened to `size` bytes."""
    path = max(_series(folder).iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
    path.write_bytes(path.read_bytes()[:size])
    return folder


def _zip_archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")
    return path


def _without_voxels(path: Path) -> Path:
    write_itk(path, _good().astype(np.int16), True)
    path.with_suffix(".raw").unlink()
    return path


def _colour(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(path))
    return path


REFUSALS = {
    "missing file": (lambda d: d / "nowhere.nii.gz", "no such file or folder"),
    "empty file": (lambda d: _bytes(d / "a.nii.gz", b""), "empty"),
    "unknown kind": (lambda d: _bytes(d / "a.txt", b"hello"), "not a known kind"),
    "text named nifti": (lambda d: _bytes(d / "a.nii.gz", b"hello"), "cannot be read as NIfTI"),
    "truncated .nii": (lambda d: _truncated(d / "a.nii"), "damaged or truncated"),
    "truncated .nii.gz": (lambda d: _truncated(d / "a.nii.gz"), "cannot be read as NIfTI"),
    "truncated .nrrd": (lambda d: _truncated(d / "a.nrrd"), "damaged or truncated"),
    "truncated .mha": (lambda d: _truncated(d / "a.mha"), "damaged or truncated"),
    "truncated .npy": (lambda d: _truncated(d / "a.npy"), "damaged or truncated"),
    "truncated .npz": (lambda d: _truncated(d / "a.npz"), "cannot be read as npz"),
    "2D": (lambda d: _array(d / "a.npy", _good()[0]), "2D data"),
    "4D": (lambda d: write_nifti(d / "a.nii", _good((6, 5, 4, 2)), np.eye(4)), "4D data"),
    "2D image file": (lambda d: _colour(d / "a.nrrd"), "3 numbers a voxel"),
    "no voxels": (lambda d: _array(d / "a.npy", np.zeros((3, 0, 4))), "no voxels"),
    "NaN": (lambda d: _array(d / "a.npy", _with_nan(np.nan)), "NaN or infinite"),
    "infinite": (lambda d: write_nifti(d / "a.nii", _with_nan(-np.inf), np.eye(4)), "NaN or infinite"),
    "constant": (lambda d: _array(d / "a.npy", np.full((4, 5, 6), 7.0)), "every voxel is 7"),
    "complex": (lambda d: _array(d / "a.npy", _good() * 1j), "complex"),
    "text array": (lambda d: _array(d / "a.npy", np.full((2, 2, 2), "x")), "one real number"),
    "pickled object": (lambda d: _array(d / "a.npy", np.full((2, 2, 2), {}, dtype=object)), "cannot be read as npy"),
    "singular affine": (lambda d: _singular(d / "a.nii"), "singular"),
    "several arrays": (lambda d: _two_arrays(d / "a.npz"), "first, second"),
    "zip archive": (lambda d: _zip_archive(d / "a.npz"), "it holds: notes.txt"),
    "mhd without its voxels": (lambda d: _without_voxels(d / "a.mhd"), "names a voxel file that is not there"),
    "empty DICOM slice": (lambda d: _cut_to(d / "s", 0), r"\.dcm: is empty"),
    "DICOM slice cut in its header": (lambda d: _cut_to(d / "s", 300), r"\.dcm: .*without rows and columns"),
    "mixed DICOM series": (lambda d: _mixed_series(d / "s"), r"2 DICOM series.*1\.2\.3\.111 \(8.*1\.2\.3\.222 \(8"),
    "missing DICOM slice": (
        lambda d: _missing_slice(d / "s"),
        r"missing between .* \(5.00 mm apart, 2.50 mm",
    ),
    "doubled DICOM slices": (lambda d: _doubled_slices(d / "s"), "nearly the same position"),
    "short DICOM pixels": (lambda d: _edited(d / "s", _short_pixels), r"\.dcm: damaged or truncated"),
    "DICOM slice of another size": (lambda d: _edited(d / "s", _larger), "differ in size"),
    "no decoder": (lambda d: _edited(d / "s", _undecodable), "no decoder for DICOM JPEG-LS"),
    "one DICOM file": (lambda d: _one_slice(d / "s", False), "give the folder"),
    "folder of one slice": (lambda d: _one_slice(d / "s", True), "one DICOM slice"),
    "folder without DICOM": (lambda d: _folder_of_text(d / "s"), "no DICOM image"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(case, tmp_path):
    make, message = REFUSALS[case]
    path = make(tmp_path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_folder_of_volumes_is_sent_to_the_option_that_takes_it(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(VolumeError, match=r"no DICOM image lies directly .* --images takes a folder of several CTs$"):
        read_volume(tmp_path)


def test_a_file_that_may_not_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", _good(), np.eye(4))

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", forbidden)  # the owner of a test run may be root, who may read everything
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: no permission to read"):
        read_volume(path)
