"""NIfTI files by nibabel: the voxels, or the header alone.

Packed ones are opened by isal's igzip, which unpacks faster than zlib and checks the same sums at the end.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.volumeutils import apply_read_scaling

from datasets.volume.declared_size import check_declared, check_voxels
from datasets.volume.geometry import VolumeError
from datasets.volume.voxel_types import held_type
from datasets.whole_files import written_whole

_PIECE = 2**20  # bytes read at once where they are not kept
_MOST_BEHIND = 16 * _PIECE  # bytes that may follow the voxels, where some writers put zeros
nib.imageglobals.logger.setLevel(logging.CRITICAL)  # what cannot be read is raised as well; the rest is put right


def nifti_header(path: str | Path) -> nib.Nifti1Header:
    """Header of a NIfTI file, version 1 or 2."""
    with _nifti_image(Path(path)) as image:
        return image.header


def is_scaled(path: str | Path) -> bool:
    """Whether a NIfTI file's numbers become its voxels by a slope or an intercept."""
    with _nifti_image(Path(path)) as image:
        voxels = image.dataobj
        return isinstance(voxels, nib.arrayproxy.ArrayProxy) and (voxels.slope, voxels.inter) != (1, 0)


def read_nifti(path: Path, integers: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Array float32, or as `held_type` has it, and affine (4, 4).

    Raises VolumeError for voxels that are no real numbers, a size that the file cannot hold, or a spacing that is not
    above 0; and nibabel's, igzip's and the system's errors for a damaged file.
    """
    with _nifti_image(path, to_the_end=True) as image:
        dtype = image.get_data_dtype()
        if dtype.names is not None or np.issubdtype(dtype, np.complexfloating):
            raise VolumeError(f"{path}: voxels are of type {dtype}; give one real number a voxel")
        check_voxels(path, image.shape)
        return _voxels(image, integers), image.affine


def _voxels(image: nib.Nifti1Pair, integers: bool) -> np.ndarray:
    """What ``get_fdata(dtype=np.float32)`` gives, to the last bit, or the file's integers, read piece by piece.

    nibabel holds the file's numbers beside those that it makes of them, with a slope as float64.
    """
    stored = image.dataobj
    assert isinstance(stored, nib.arrayproxy.ArrayProxy)  # as of every image that comes from a file
    if not isinstance(stream := stored.file_like, io.IOBase):
        return image.get_fdata(dtype=np.float32, caching="unchanged")  # a pair of files
    unscaled = (stored.slope, stored.inter) == (1, 0)
    array = np.empty(stored.shape, dtype=held_type(stored.dtype, integers and unscaled), order="F")
    flat = array.reshape(-1, order="F")
    stream.seek(stored.offset)
    step = max(_PIECE // stored.dtype.itemsize, 1)
    for start in range(0, flat.size, step):
        to = flat[start : start + step]
        piece = stream.read(to.size * stored.dtype.itemsize)
        numbers = np.frombuffer(piece, dtype=stored.dtype)  # ValueError for a part of a number
        if numbers.size != to.size:
            raise EOFError(f"its voxels end after {start + numbers.size} of {flat.size}")
        to[...] = apply_read_scaling(numbers, np.float64(stored.slope), np.float64(stored.inter))
    return array


def save_nifti(image: nib.Nifti1Image, path: Path) -> Path:
    """Write an image, packed where the name ends in .gz, whole or not at all; folders are made.  Gives the path."""
    with written_whole([path]) as (part,):
        nib.save(image, part)
    return path


@contextmanager
def _nifti_image(path: Path, to_the_end: bool = False) -> Iterator[nib.Nifti1Pair]:
    """The image, open for reading; by content, so that a wrong or missing .gz in the name does no harm.

    to_the_end: when the voxels have been read, read on, since the checksum of what was packed stands at the end.
    """
    if path.name.lower().endswith((".hdr", ".img")):
        image = nib.load(path)  # a pair of files, found by name
        if not isinstance(image, nib.Nifti1Pair):
            raise VolumeError(f"{path}: an Analyze file does not tell left from right; convert it to NIfTI first")
        header_file, voxel_file = (Path(str(image.file_map[part].filename)) for part in ("header", "image"))
        with open(header_file, "rb") as file:
            _check_header(header_file, _raw_header(file), 0)
        zipped = voxel_file.suffix.lower() == ".gz"
        check_declared(path, image.shape, image.get_data_dtype().itemsize, voxel_file.stat().st_size, zipped)
        yield image
        return
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with cast(io.BufferedIOBase, igzip.open(path, "rb") if zipped else open(path, "rb")) as stream:
        raw = _raw_header(stream)
        _check_header(path, raw, int(raw["vox_offset"]))
        check_declared(path, raw.get_data_shape(), _voxel_bytes(path, raw), path.stat().st_size, zipped)
        yield (nib.Nifti2Image if isinstance(raw, nib.Nifti2Header) else nib.Nifti1Image).from_stream(stream)
        if to_the_end and zipped:
            _read_on(path, stream)


def _raw_header(stream: io.BufferedIOBase) -> nib.Nifti1Header:
    """The header as it stands at the start of a file, which is then at its start again."""
    block = stream.read(nib.Nifti2Header.sizeof_hdr)
    stream.seek(0)
    # sizeof_hdr is 348 in NIfTI-1 and 540 in NIfTI-2, in either byte order
    version_2 = 540 in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big"))
    kind = nib.Nifti2Header if version_2 else nib.Nifti1Header
    return kind(block[: kind.sizeof_hdr], check=False)


def _voxel_bytes(path: Path, header: nib.Nifti1Header) -> int:
    try:
        return header.get_data_dtype().itemsize
    except KeyError as error:
        raise VolumeError(
            f"{path}: damaged: its header says voxels of type {error}, which is none; copy it again"
        ) from error


def _check_header(path: Path, header: nib.Nifti1Header, offset: int) -> None:
    """What nibabel would put right without a word: spacings of 0 and below, where they place the voxels."""
    spacing = header["pixdim"][1:4]
    if int(header["sform_code"]) <= 0 and (spacing <= 0).any():
        found = " x ".join(f"{size:g}" for size in spacing)
        raise VolumeError(f"{path}: its header says voxels of {found} mm; write a spacing above 0")
    if offset > path.stat().st_size + 2**28:
        raise VolumeError(f"{path}: damaged or truncated: its voxels would begin at byte {offset}; copy it again")


def _read_on(path: Path, stream: io.BufferedIOBase) -> None:
    """To the end of what was packed, unless it has no end: a small file can unpack to any size."""
    behind = 0
    while piece := stream.read(_PIECE):
        behind += len(piece)
        if behind > _MOST_BEHIND:
            raise VolumeError(f"{path}: unpacks to far more than the voxels of its header; copy or save it again")
