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
from datasets.volume.text_headers import check_meta_image_header, check_nrrd_header

_PIECE = 2**20
_HEADER = 2**16  # more than any header of the two formats has
_MOST_BEHIND = 16 * _PIECE  # bytes that may follow the voxels
_VOXEL_BYTES = {
    **dict.fromkeys((sitk.sitkInt8, sitk.sitkUInt8), 1),
    **dict.fromkeys((sitk.sitkInt16, sitk.sitkUInt16), 2),
    **dict.fromkeys((sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkFloat32), 4),
    **dict.fromkeys((sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64), 8),
}


@dataclass(frozen=True)
class StoredVoxels:
    """Where the voxels of a header lie: from byte `start` of `file`; None where they are in several files.

    encoding: "raw", "packed" (by gzip or zlib), or "other" (text, bzip2).  length: of packed ones, where it is said.
    """

    header: Path
    kind: str
    file: Path | None
    start: int
    encoding: str
    length: int = 2**63

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
        if self.kind == "NRRD" and self.encoding == "raw" and held != needed:
            raise VolumeError(
                f"{self.header}: damaged: holds {held} bytes of voxels and declares {needed}; copy it again"
            )
        if packed:
            with open(self.file, "rb") as file:
                file.seek(self.start)
                _drain(file, self, needed + _MOST_BEHIND)


def stored_voxels(path: Path, kind: str) -> StoredVoxels:
    """What the header of a NRRD or MetaImage says of its voxels.

    Raises VolumeError where they are said to lie outside the header's folder or where there is no file, and for a
    header that `datasets.volume.text_headers` refuses.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER)
    return _of_nrrd(path, head) if kind == "NRRD" else _of_meta_image(path, head)


def _of_nrrd(path: Path, head: bytes) -> StoredVoxels:
    parts = re.split(rb"(\r?\n\r?\n)", head, maxsplit=1)
    header, start = parts[0], len(b"".join(parts[:2]))
    check_nrrd_header(path, header)
    packed = re.search(rb"(?im)^encoding:\s*(gzip|gz)\s*$", header)
    raw = re.search(rb"(?im)^encoding:\s*raw\s*$", header)
    skipped = re.search(rb"(?im)^(byte|line) ?skip:", header)
    encoding = "packed" if packed else "raw" if raw and not skipped else "other"
    other = re.search(rb"(?im)^data ?file:\s*(.+?)\s*$", header)
    if other is None:
        return StoredVoxels(path, "NRRD", path, start, encoding)
    return StoredVoxels(path, "NRRD", _voxel_file(path, other[1], header[other.end() :]), 0, encoding)


def _of_meta_image(path: Path, head: bytes) -> StoredVoxels:
    last = re.search(rb"(?m)^ElementDataFile\s*=\s*(.+?)\s*?\r?\n", head + b"\n")
    if last is None:
        raise VolumeError(f"{path}: damaged: its header has no line ElementDataFile; copy it again")
    if len(last[1]) > 255 or min(last[1]) < 32 or last[1].lstrip()[:1] == b"":
        raise VolumeError(f"{path}: damaged: its line ElementDataFile names no file; copy it again")
    header = head[: last.start()]
    check_meta_image_header(path, header)
    packed = re.search(rb"(?im)^CompressedData\s*=\s*True", header)
    text = re.search(rb"(?im)^BinaryData\s*=\s*False", header)
    encoding = "packed" if packed else "other" if text else "raw"
    file, start = (path, last.end()) if last[1].upper() == b"LOCAL" else (None, 0)
    if file is None:
        file = _voxel_file(path, last[1], head[last.end() :])
    if file is not None and not file.is_file():
        raise VolumeError(f"{path}: names a voxel file that is not there, {file.name}; put it beside the header")
    size = re.search(rb"(?m)^\s*CompressedDataSize\s*=\s*(\d+)", header)
    length = int(size[1]) if packed and size else 2**63
    if file is not None and size and packed and length > file.stat().st_size - start:
        raise VolumeError(f"{path}: damaged or truncated: its packed voxels are cut off; copy it again")
    return StoredVoxels(path, "MetaImage", file, start, encoding, length)


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


def _drain(file: IO[bytes], stored: StoredVoxels, most: int) -> None:
    """Unpack to the end, and keep nothing; VolumeError beyond `most` bytes, since a small file unpacks to any size."""
    count = 0
    for piece in _unpacked_gzip(file) if stored.kind == "NRRD" else _unpacked_zlib(file, stored.length):
        count += piece
        if count > most:
            raise VolumeError(f"{stored.header}: unpacks to far more than the voxels of its header; save it again")


def _unpacked_gzip(file: IO[bytes]) -> Iterator[int]:
    """The sizes of the pieces that packed voxels unpack to."""
    with gzip.GzipFile(fileobj=file) as stream:
        while piece := stream.read(_PIECE):
            yield len(piece)


def _unpacked_zlib(file: IO[bytes], left: int) -> Iterator[int]:
    """The same; ValueError where the next `left` bytes are damaged, or end before the checksum."""
    stream = zlib.decompressobj()
    while not stream.eof:
        packed = stream.unconsumed_tail
        if not packed:
            packed = file.read(min(_PIECE, left))
            left -= len(packed)
        if not packed:
            raise ValueError("the packed voxels end before their checksum")
        try:
            yield len(stream.decompress(packed, _PIECE))
        except zlib.error as error:
            raise ValueError(str(error)) from error
