"""A header that declares more than its file can hold, or than is read, takes neither memory nor time."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from datasets.volume import declared_size
from datasets.volume.geometry import VolumeError
from datasets.volume.loading import read_volume
from tests.ct_files import write_dicom

SIZE = 30000
VOXELS = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
EXTRA = 64 * 2**20  # bytes that a bomb unpacks to


def _nifti_header(size: int) -> bytes:
    content = bytearray(nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes())
    content[40:48] = struct.pack("<4h", 3, size, size, size)
    return bytes(content)


def _npy(size: int) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<i2", "fortran_order": False, "shape": (size, size, size)})
    return content.getvalue() + VOXELS.tobytes()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _npz(path: Path, size: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct.npy", _npy(size))
    return path


def _mha(path: Path, size: int, voxels: bytes, packed: bool = False) -> Path:
    packed_lines = f"CompressedData = True\nCompressedDataSize = {len(voxels)}\n" if packed else ""
    header = (
        f"ObjectType = Image\nNDims = 3\n{packed_lines}DimSize = {size} {size} {size}\n"
        "ElementSpacing = 1 1 1\nElementType = MET_SHORT\nElementByteOrderMSB = False\nElementDataFile = LOCAL\n"
    )
    return _written(path, header.encode() + voxels)


def _nrrd(path: Path, size: int, voxels: bytes, encoding: str = "raw") -> Path:
    header = f"type: short\ndimension: 3\nsizes: {size} {size} {size}\nspacings: 1 1 1\nencoding: {encoding}\n"
    return _written(path, f"NRRD0004\n{header}endian: little\n\n".encode() + voxels)


def _dicom(folder: Path, size: int) -> Path:
    for path in write_dicom(folder, VOXELS).iterdir():
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = size
        data.save_as(path)
    return folder


DECLARED: dict[str, Callable[[Path, int], Path]] = {
    "nii": lambda d, size: _written(d / "a.nii", _nifti_header(size)),
    "nii.gz": lambda d, size: _written(d / "a.nii.gz", gzip.compress(_nifti_header(size))),
    "npy": lambda d, size: _written(d / "a.npy", _npy(size)),
    "npz": lambda d, size: _npz(d / "a.npz", size),
    "mha": lambda d, size: _mha(d / "a.mha", size, VOXELS.tobytes()),
    "packed mha": lambda d, size: _mha(d / "a.mha", size, zlib.compress(VOXELS.tobytes()), True),
    "nrrd": lambda d, size: _nrrd(d / "a.nrrd", size, VOXELS.tobytes()),
    "packed nrrd": lambda d, size: _nrrd(d / "a.nrrd", size, gzip.compress(VOXELS.tobytes()), "gzip"),
    "DICOM": lambda d, size: _dicom(d / "s", size),
}


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize("size", [1000, SIZE])  # below the limit on voxels, and above it
def test_a_declared_size_that_the_file_cannot_hold_is_refused_before_memory_is_taken(
    kind: str, size: int, tmp_path: Path
) -> None:
    path = DECLARED[kind](tmp_path, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match=r"cannot hold|declares 30000 x 30000") as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the voxels would take 2 GB


def _bomb(voxels: bytes, compress: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    return compress(voxels + bytes(EXTRA))


BOMBS: dict[str, Callable[[Path], Path]] = {
    "nii.gz": lambda d: _written(d / "a.nii.gz", _bomb(nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes())),
    "nrrd": lambda d: _nrrd(d / "a.nrrd", 4, _bomb(VOXELS.tobytes()[:128]), "gzip"),
    "mha": lambda d: _mha(d / "a.mha", 4, _bomb(VOXELS.tobytes()[:128], zlib.compress), True),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_packed_file_that_goes_on_behind_its_voxels_is_left_early(kind: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="far more than the voxels"):
        read_volume(BOMBS[kind](tmp_path))


def test_what_is_above_the_limit_is_refused_also_where_the_file_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared_size, "MAX_VOXELS", 100)
    slices = tmp_path / "slices"
    slices.mkdir()
    for number in range(4):
        Image.fromarray(VOXELS[:, :, number].astype(np.uint8)).save(slices / f"{number}.png")
    np.savez_compressed(tmp_path / "b.npz", ct=VOXELS)
    for path in (slices, tmp_path / "b.npz", write_dicom(tmp_path / "s", VOXELS)):
        with pytest.raises(VolumeError, match=r"declares 6 x 5 x 4|declares 5 x 6 x 4"):
            read_volume(path)


def test_an_empty_mask_is_no_bomb(tmp_path: Path) -> None:
    """Zeros alone are packed as far as the format can: the volume is refused for its values, not for its size."""
    zeros = np.zeros((200, 200, 100), np.uint8)
    nib.save(nib.Nifti1Image(zeros, np.eye(4)), tmp_path / "a.nii.gz")
    np.savez_compressed(tmp_path / "b.npz", ct=zeros)
    for name in ("a.nii.gz", "b.npz"):
        with pytest.raises(VolumeError, match="every voxel is 0"):
            read_volume(tmp_path / name)
