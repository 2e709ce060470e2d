"""The checksums of packed NRRD and MetaImage voxels, which ITK does not look at: it takes a damaged file as it comes.

NRRD packs by gzip (CRC-32 at the end of the stream), MetaImage by zlib (Adler-32).
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import IO

_PIECE = 2**20
_HEADER = 2**16  # more than any header of the two formats has


def check_packed(path: Path, kind: str) -> None:
    """Read the packed voxels of a NRRD or MetaImage to their end; ValueError or OSError where they are damaged.

    Voxels that are not packed have no checksum, and those of several files are left to ITK.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER)
        if kind == "NRRD":
            header, blank, _ = re.split(rb"(\r?\n\r?\n)", head, maxsplit=1) if b"\n\n" in head else (head, b"", b"")
            packed = re.search(rb"(?im)^encoding:\s*(gzip|gz)\s*$", header) is not None
            other = re.search(rb"(?im)^data ?file:\s*(.+?)\s*$", header)
            start = len(header) + len(blank)
        else:
            last = re.search(rb"(?m)^ElementDataFile\s*=\s*(.+?)\s*?\r?\n", head)
            packed = re.search(rb"(?im)^CompressedData\s*=\s*True", head[: last.start()] if last else b"") is not None
            other = last if last and last[1] != b"LOCAL" else None
            start = last.end() if last else 0
        if not packed:
            return
        if other is None:
            file.seek(start)
            _drain(file, kind)
            return
    name = path.parent / other[1].decode()
    if name.is_file():
        with open(name, "rb") as file:
            _drain(file, kind)


def _drain(file: IO[bytes], kind: str) -> None:
    if kind == "NRRD":
        with gzip.GzipFile(fileobj=file) as stream:
            while stream.read(_PIECE):
                pass
        return
    stream_of_zlib = zlib.decompressobj()
    while not stream_of_zlib.eof:
        piece = stream_of_zlib.unconsumed_tail or file.read(_PIECE)
        if not piece:
            raise ValueError("the packed voxels end before their checksum")
        try:
            stream_of_zlib.decompress(piece, _PIECE)
        except zlib.error as error:
            raise ValueError(str(error)) from error
