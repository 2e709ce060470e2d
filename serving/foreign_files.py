"""Headers that name other files: of an upload they may name nothing but its own.

MetaImage (.mhd, and .mha too) and NRRD headers say where their voxels are, which may be any file that the server can
read.  A reader would show it as voxels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from datasets.errors import InputError

_HEADER_BYTES = 2**16  # no header of either kind is longer; ITK reads on, so a longer one is refused
_META = re.compile(rb"^[ \t]*elementdatafile[ \t]*[=:][ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_NRRD = re.compile(rb"^[ \t]*data[ ]?file[ \t]*:=?[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_PLAIN = re.compile(r"[\w+\-][\w.+\- ]*", re.ASCII)


def check_references(files: Iterable[Path]) -> None:
    """Raise InputError where one of these files is a header that names voxels outside of its own folder."""
    for path in files:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
        if head.startswith(b"NRRD"):
            header = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
            if len(header) == _HEADER_BYTES:
                raise InputError(f"{path.name}: its NRRD header has no end within {_HEADER_BYTES} bytes; save it again")
            named = _NRRD.findall(header)
        elif re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)", head) or path.suffix.lower() in (".mhd", ".mha"):
            named = [name for name in _META.findall(head) if name.strip().lower() != b"local"]
            if not _META.search(head):
                raise InputError(f"{path.name}: a MetaImage header without ElementDataFile; save the volume again")
        else:
            continue
        for name in named:
            _check_one(path, name.decode("utf-8", "replace").strip())


def _check_one(header: Path, name: str) -> None:
    beside = header.parent / name
    if not _PLAIN.fullmatch(name) or not beside.is_file() or beside.is_symlink():
        raise InputError(
            f"{header.name}: its voxels are in another file, which is not in this upload under a plain name; drop both "
            "files together, or save the volume as one file"
        )
