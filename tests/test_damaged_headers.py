"""Headers that libraries take for better than they are: refused in one line that names the file, and no other."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from datasets.volume.dicom_files import BoundedFile
from datasets.volume.geometry import VolumeError
from datasets.volume.loading import read_volume
from tests.ct_files import ras_affine, write_dicom, write_itk

VOXELS = np.random.default_rng(0).integers(-1000, 1500, (11, 9, 7)).astype(np.int16)


def _refused_where(pattern: bytes, written: bytes, path: Path, capfd: pytest.CaptureFixture[str], words: str) -> None:
    """With other bytes for what the pattern finds first in the file."""
    content, changes = re.subn(pattern, written, path.read_bytes(), count=1, flags=re.DOTALL)
    assert changes == 1
    path.write_bytes(content)
    _refused(path, capfd, words)


def _refused(path: Path, capfd: pytest.CaptureFixture[str], words: str) -> None:
    capfd.readouterr()
    with pytest.raises(VolumeError, match=words) as caught:
        read_volume(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("pattern", "written", "words"),
    [
        (rb"NDims = 3\n", b"", "no line NDims"),
        (rb"(NDims = 3\n)(.*)(?=Elem)", rb"\2\1", "does not begin with NDims"),
        (rb"DimSize = .*?\n", b"", "no line DimSize"),
        (rb"DimSize = .*?\n", b"DimSize = 11 9\n", "another number of sizes"),
        (rb"MET_SHORT", b"MET_SHART", "no known ElementType"),
        (rb"= LOCAL", b"= LO\x01AL", "names no file"),
        (rb"= LOCAL", b"= " + b"LOCAL" * 60, "names no file"),
        (rb"= LOCAL", b"= LOCAX", "names a voxel file that is not there"),
        (rb"ElementDataFile", b"ElementDetaFile", "no line ElementDataFile"),
        (rb"2\.5\n", b"2&5\n", "no number in the line ElementSpacing"),
        (rb"ElementSpacing = .*?\n", b"ElementSpacing = 0.8 1\n", "not a number for each dimension in the line Elem"),
        (rb"AnatomicalO", b"Anatomi\0alO", "is no text"),
        (rb"ElementSpacing =", b"ElementSpacing y", "says nothing"),
        (rb"BinaryData = True", b"BinaryData = Prue", "says nothing"),
        (rb"CompressedDataSize = .*?\n", b"", "no line CompressedDataSize"),
        (rb"CompressedDataSize = .*?\n", b"CompressedDataSize = 99999\n", "cut off"),
        (rb"CompressedDataSize = .*?\n", b"CompressedDataSize = 700\n", "end before their checksum"),
    ],
)
def test_meta_image(
    pattern: bytes, written: bytes, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _refused_where(pattern, written, write_itk(tmp_path / "a.mha", VOXELS, True, True), capfd, words)


@pytest.mark.parametrize(
    ("pattern", "written", "words"),
    [
        (rb"0,2\.5\)", b"0,2&5)", "no number in the line space directions"),
        (rb"sizes: 11", b"sizes: 1x", "no number in the line sizes"),
        (rb"encoding: raw", b"encoding: raw\0", "is no text"),
        (rb"\n\n", b"\n\nmore", "holds 1390 bytes of voxels and declares 1386"),
    ],
)
def test_nrrd(pattern: bytes, written: bytes, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _refused_where(pattern, written, write_itk(tmp_path / "a.nrrd", VOXELS, True), capfd, words)


def test_a_detached_nrrd_may_skip_bytes_before_its_voxels(tmp_path: Path) -> None:
    whole = write_itk(tmp_path / "a.nrrd", VOXELS, True).read_bytes()
    header, _, voxels = whole.partition(b"\n\n")
    (tmp_path / "a.raw").write_bytes(b"12345678" + voxels)
    (tmp_path / "b.nhdr").write_bytes(header + b"\nbyte skip: 8\ndata file: a.raw\n\n")
    assert np.array_equal(read_volume(tmp_path / "b.nhdr")[0], read_volume(tmp_path / "a.nrrd")[0])


def test_a_size_below_zero(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(nib.Nifti1Image(VOXELS, ras_affine()).to_bytes())
    content[40:56] = struct.pack("<8h", 7, 16584, -5767, 30963, -22185, -17645, -28282, -10702)
    (tmp_path / "a.nii").write_bytes(bytes(content))
    _refused(tmp_path / "a.nii", capfd, "declares 16584 x -5767")


def _first(folder: Path) -> Path:
    """The file of the lowest slice: without it the series has no gap."""
    return min(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def _cut_pixel_data(content: bytes) -> bytes:
    place = content.index(b"\xe0\x7f\x10\0OW\0\0") + 8
    return content[:place] + struct.pack("<I", 10**9) + content[place + 4 :]


def _meta_without_class(content: bytes) -> bytes:
    """One flipped bit: the element that says what the object is belongs to no group of the header, which so ends."""
    place = content.index(b"\x02\0\x02\0UI") + 1
    return content[:place] + b"\x40" + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"), [(_cut_pixel_data, "pixel data are cut off"), (_meta_without_class, "damaged|truncated")]
)
def test_a_dicom_slice_is_not_lost(
    damage: Callable[[bytes], bytes], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_dicom(tmp_path / "series", VOXELS)
    path = _first(folder)
    path.write_bytes(damage(path.read_bytes()))
    _refused(folder, capfd, words)


def test_a_private_object_without_voxels_is_passed_over(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "series", VOXELS)
    expected, _ = read_volume(folder)
    data = pydicom.dcmread(_first(folder))
    private = "1.3.12.2.1107.5.9.1"  # Siemens' own data, which its scanners put beside the slices
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = private
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit"):
        del data[name]
    data.save_as(folder / "private.dcm", enforce_file_format=True)
    assert np.array_equal(read_volume(folder)[0], expected)


def test_no_more_memory_than_the_file_has_bytes_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with BoundedFile(tmp_path / "a") as file:
        assert file.read(4) == b"0123"
        assert file.read(2**50) == b"456789"  # which Python alone refuses with MemoryError
        assert file.read(8) == b"" and file.seek(2) == 2 and file.read() == b"23456789"


def test_what_sitk_writes_is_read_in_every_form(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetMetaData("Comment", "a note = of two words")
    for name in ("a.mha", "b.mhd", "c.nrrd", "d.nhdr"):
        for packed in (False, True):
            sitk.WriteImage(image, str(tmp_path / name), packed)
            assert np.array_equal(np.sort(read_volume(tmp_path / name, "as_stored")[0], None), np.sort(VOXELS, None))
