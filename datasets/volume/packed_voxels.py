"""What ITK does not look at in NRRD and MetaImage files: the place, the size and the checksum of their voxels.

NRRD packs by gzip (CRC-32 at the end of the stream), MetaImage by zlib (Adler-32); ITK takes damaged
ones as they come.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import SimpleITK as sitk

from datasets.volume.declared_size import check_declared, check_voxels
from datasets.volume.geometry import VolumeError

_PIECE = 2**20
_HEADER = 2**16  # more than any header of the two formats has
_MOST_BEHIND = 16 * _PIECE  # bytes that may follow the voxels
_VOXEL_BYTES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkUInt8), 1),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkUInt16), 2),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32), 4),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64), 8),
}
_OTHER_SCANS = re.compile(rb"(?m)^Modality\s*=\s*MET_MOD_(MR|NM|US)\s*$")


@dataclass(frozen=True)
class StoredVoxels:
    """Where the voxels of a header lie: from byte `start` of `file`; None where they are in several files.

    encoding: "raw", "packed" (by gzip or zlib), or "other" (text, bzip2).
    """

    header: Path
    kind: str
    file: Path | None
    start: int
    encoding: str

    def check(self, shape: Sequence[int], pixel: int) -> None:
        """VolumeError for a declared shape that these bytes cannot hold; read packed voxels to their checksum.

        pixel: SimpleITK's number of the voxels' type.  Raises ValueError or OSError where packed voxels are damaged.
        """
        if self.encoding == "other" or self.file is None or not self.file.is_file():
            check_voxels(self.header, shape)
            return
        packed = self.encoding == "packed"
        held = self.file.stat().st_size - self.start
        needed = check_declared(self.header, shape, _VOXEL_BYTES.get(pixel, 1), held, packed)
        if packed:
            with open(self.file, "rb") as file:
                file.seek(self.start)
                _drain(file, self.kind, self.header, needed + _MOST_BEHIND)


def stored_voxels(path: Path, kind: str) -> StoredVoxels:
    """What the header of a NRRD or MetaImage says of its voxels.

    Raises VolumeError where they are said to lie outside the header's folder, where a spacing is not above 0, and where
    a MetaImage names another modality than CT.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER)
    return _of_nrrd(path, head) if kind == "NRRD" else _of_meta_image(path, head)


def _of_nrrd(path: Path, head: bytes) -> StoredVoxels:
    parts = re.split(rb"(\r?\n\r?\n)", head, maxsplit=1)
    header, start = parts[0], len(b"".join(parts[:2]))
    _check_spacing(path, re.search(rb"(?im)^spacings:\s*(.+?)\s*$", header))
    packed = re.search(rb"(?im)^encoding:\s*(gzip|gz)\s*$", header)
    raw = re.search(rb"(?im)^encoding:\s*raw\s*$", header)
    encoding = "packed" if packed else "raw" if raw else "other"
    other = re.search(rb"(?im)^data ?file:\s*(.+?)\s*$", header)
    if other is None:
        return StoredVoxels(path, "NRRD", path, start, encoding)
    return StoredVoxels(path, "NRRD", _voxel_file(path, other[1], header[other.end() :]), 0, encoding)


def _of_meta_image(path: Path, head: bytes) -> StoredVoxels:
    last = re.search(rb"(?m)^ElementDataFile\s*=\s*(.+?)\s*?\r?\n", head + b"\n")
    if last is None:
        return StoredVoxels(path, "MetaImage", None, 0, "other")
    header = head[: last.start()]
    if scan := _OTHER_SCANS.search(header):
        raise VolumeError(f"{path}: its header says modality {scan[1].decode()}, this is no CT")
    _check_spacing(path, re.search(rb"(?m)^Element(?:Spacing|Size)\s*=\s*(.+?)\s*$", header))
    packed = re.search(rb"(?im)^CompressedData\s*=\s*True", header)
    text = re.search(rb"(?im)^BinaryData\s*=\s*False", header)
    encoding = "packed" if packed else "other" if text else "raw"
    if last[1].upper() == b"LOCAL":
        return StoredVoxels(path, "MetaImage", path, last.end(), encoding)
    return StoredVoxels(path, "MetaImage", _voxel_file(path, last[1], head[last.end() :]), 0, encoding)


def _check_spacing(path: Path, line: re.Match[bytes] | None) -> None:
    """ITK turns a negative spacing round, or makes it 1; what is meant by it is not known."""
    try:
        spacing = [float(word) for word in line[1].split()[:3]] if line else []
    except ValueError:
        return  # left to ITK
    if any(size <= 0 for size in spacing):
        found = " x ".join(f"{size:g}" for size in spacing)
        raise VolumeError(f"{path}: its header says voxels of {found} mm; write a spacing above 0")


def _voxel_file(path: Path, named: bytes, behind: bytes) -> Path | None:
    """The one file that a header names, None for several; VolumeError where one is outside the header's folder."""
    several = named.upper().startswith(b"LIST")
    for name in behind.split(b"\n") if several else [named]:
        text = os.fsdecode(name.strip())
        if text.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", text):
            raise VolumeError(
                f"{path}: names a voxel file outside its folder, {text}; put that file beside it and correct the header"
            )
    return None if several or b"%" in named else path.parent / os.fsdecode(named)


def _drain(file: IO[bytes], kind: str, header: Path, most: int) -> None:
    """Unpack to the end, and keep nothing; VolumeError beyond `most` bytes, since a small file unpacks to any size."""
    count = 0
    for piece in _unpacked(file, kind):
        count += piece
        if count > most:
            raise VolumeError(f"{header}: unpacks to far more than the voxels of its header; save it again")


def _unpacked(file: IO[bytes], kind: str) -> Iterator[int]:
    """The sizes of the pieces that packed voxels unpack to."""
    if kind == "NRRD":
        with gzip.GzipFile(fileobj=file) as stream:
            while piece := stream.read(_PIECE):
                yield len(piece)
        return
    stream_of_zlib = zlib.decompressobj()
    while not stream_of_zlib.eof:
        packed = stream_of_zlib.unconsumed_tail or file.read(_PIECE)
        if not packed:
            raise ValueError("the packed voxels end before their checksum")
        try:
            yield len(stream_of_zlib.decompress(packed, _PIECE))
        except zlib.error as error:
            raise ValueError(str(error)) from error
