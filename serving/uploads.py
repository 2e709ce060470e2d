"""Multipart uploads, written to disk as they arrive: a study of any size takes the memory of one piece."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from datasets.commands import DISK
from datasets.errors import InputError
from serving.limits import Limits
from serving.safe_names import safe_relative_path, shown

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".tar.bz2", ".tar.xz", ".gz")
_LONGEST_HEADER, _MOST_HEADERS = 2**14, 20  # of a part
_VOLUMES_IN_GZIP = (".nii.gz", ".img.gz", ".hdr.gz", ".mha.gz", ".nrrd.gz", ".raw.gz")


class UploadTooLarge(InputError):
    """More bytes or files than the server takes."""


class UploadWriter:
    """Takes the body of one multipart request piece by piece and writes its files below `folder`.

    names: relative path -> the name that the user gave.  digest: of names and contents, for recognising the same
    volume.  Parts without a file name are passed over.  What the disk has no room for is an OSError.
    """

    def __init__(self, content_type: str, folder: Path, limits: Limits, room: int) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InputError("an upload is a multipart/form-data request with the files of one volume, or several")
        self.folder = folder
        self.names: dict[str, str] = {}
        self._limits = limits
        self._room = min(room, limits.upload_bytes)
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        calls: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._lengthen(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._lengthen(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._close,
        }
        self._parser = MultipartParser(boundary, calls)  # type: ignore[arg-type]

    def write(self, piece: bytes) -> None:
        """Take the next piece of the body; raises InputError where it is no multipart, or leads out of its folder."""
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise InputError(f"the upload is damaged: {error}; send it again") from error

    def finish(self) -> None:
        """The body is over; raises InputError where it ended early or held no file."""
        self.close()
        try:
            self._parser.finalize()
        except MultipartParseError as error:
            raise InputError(f"the upload ended early: {error}; send it again") from error
        if not self.names:
            raise InputError("the upload holds no file; send at least one part with a filename")

    def close(self) -> None:
        """Close the file that is being written, if any."""
        if self._file:
            self._file.close()
            self._file = None

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def _begin(self) -> None:
        self._headers = {}

    def _lengthen(self, part: int, data: bytes) -> None:
        """A piece of a header's name (0) or of its value (1)."""
        self._header[part].extend(data)
        if len(self._header[part]) > _LONGEST_HEADER or len(self._headers) > _MOST_HEADERS:
            raise InputError("the upload is damaged: a part of it has no end of headers; send it again")

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in options:
            return
        name = options[b"filename"].decode("utf-8", "replace")
        relative = safe_relative_path(name)
        if relative.name.startswith("."):
            return  # what systems put beside the files of their users
        if relative.name.lower().endswith(ARCHIVES) and not relative.name.lower().endswith(_VOLUMES_IN_GZIP):
            raise InputError(f"{shown(name)}: an archive; unpack it and drop the folder, or the file that is in it")
        if len(self.names) == self._limits.upload_files:
            raise UploadTooLarge(f"the upload has more than {self._limits.upload_files} files; send one study a time")
        if str(relative) in self.names:
            raise InputError(f"{shown(name)}: another file of this upload has this name; rename one of them")
        path = self.folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "xb")  # noqa: SIM115  closed when its part ends, or by `close`
        except OSError as error:  # a file where a folder belongs, or names that differ in case alone
            if error.errno in DISK:
                raise
            raise InputError(f"{shown(name)}: cannot be kept beside the other files; rename it") from error
        self.names[str(relative)] = name
        self._digest.update(f"\0{relative}\0".encode())

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._file:
            return
        self._room -= end - start
        if self._room < 0:
            raise UploadTooLarge(
                f"the upload is larger than the {self._limits.upload_bytes / 1e9:g} GB of one, or than what is left to "
                "this session; end the session, or ask for a higher --max_upload_gb"
            )
        if self._room % 2**26 < end - start and shutil.disk_usage(self.folder).free < self._limits.free_bytes:
            raise UploadTooLarge("the server's disk is full; try again later")
        self._digest.update(data[start:end])
        self._file.write(data[start:end])

    def _close(self) -> None:
        self.close()
