"""Whether the voxels of a MetaImage or NRRD file are all there, told by sizes alone."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from datasets.volume.geometry import VolumeError


def refuse_cut_off(path: Path, kind: str, head: bytes, needed: int) -> None:
    """VolumeError where the file, or the one that it names for its voxels, is missing or holds too little.

    kind: "MetaImage" or "NRRD".  head: the first bytes of the file, with its whole header.  needed: bytes of all
    voxels.  Voxels in several files, or packed in a way that does not tell its size, are not looked at.
    """
    if kind == "MetaImage":
        _meta_image(path, head, needed)
    else:
        _nrrd(path, head, needed)


def refuse_cut_off_gzip(path: Path, needed: int, start: int = 0) -> None:
    """VolumeError where the gzip from byte `start` on unpacks to less than `needed` bytes.

    The last four bytes tell how many were packed; only where they disagree is the file unpacked, for several members,
    or bytes behind them, are allowed.
    """
    with open(path, "rb") as file:
        file.seek(-4, 2)
        if int.from_bytes(file.read(4), "little") == needed % 2**32:
            return
        file.seek(start)
        count = 0
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                while count < needed and (block := unpacked.read(2**22)):
                    count += len(block)
        except (EOFError, OSError, zlib.error) as error:
            reason = str(error) or type(error).__name__
            raise VolumeError(f"{path}: truncated or damaged gzip ({reason}); download it again") from error
    _compare(path, count, needed)


def _meta_image(path: Path, head: bytes, needed: int) -> None:
    fields: dict[str, str] = {}
    position = 0
    for line in head.splitlines(keepends=True):
        position += len(line)
        field, _, value = line.decode(errors="replace").partition("=")
        fields[field.strip()] = value.strip()
        if field.strip() == "ElementDataFile":
            break
    name = fields.get("ElementDataFile", "")
    if not name or name.startswith("LIST") or "%" in name:
        return
    is_local = name.upper() == "LOCAL"
    data = path if is_local else _beside(path, name)
    if fields.get("CompressedData", "").lower() in ("true", "1"):
        needed = int(fields.get("CompressedDataSize") or 0)
    _compare(data, data.stat().st_size - (position if is_local else 0), needed)


def _nrrd(path: Path, head: bytes, needed: int) -> None:
    ends = [(place, len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if (place := head.find(mark)) >= 0]
    header = head[: min(ends)[0]] if ends else head
    fields = {}
    for line in header.decode(errors="replace").splitlines()[1:]:
        name, separator, value = line.partition(": ")
        if separator and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    name = fields.get("datafile", "")
    if name.startswith("LIST") or "%" in name or not (name or ends):
        return
    data, start = (_beside(path, name), 0) if name else (path, sum(min(ends)))
    encoding = fields.get("encoding", "").lower()
    if encoding == "raw":
        _compare(data, data.stat().st_size - start, needed)
    elif encoding in ("gzip", "gz"):
        refuse_cut_off_gzip(data, needed, start)


def _beside(path: Path, name: str) -> Path:
    data = path.parent / name
    if not (data.is_file() and data.stat().st_size):
        raise VolumeError(f"{path}: its voxels, {name}, are not beside it or empty; download them again")
    return data


def _compare(path: Path, size: int, needed: int) -> None:
    if size < needed:
        raise VolumeError(f"{path}: truncated, {size} of {needed} bytes; download it again")
