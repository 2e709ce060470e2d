"""Names that users gave to files, as names that may stand on this disk."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from datasets.errors import InputError

_MOST_LETTERS, _MOST_FOLDERS = 120, 12
_UNUSUAL = re.compile(r"[^\w.+\-]+", re.ASCII)


def safe_relative_path(name: str) -> PurePosixPath:
    """The relative path ("study/1.dcm") under which an uploaded file is kept; letters beyond ASCII become "_".

    The end of a long name is kept, where its extension is.  Raises InputError for a name that leads out of its folder,
    or into more than 12.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise InputError(f"{shown(name)}: the name of an uploaded file must not lead out of its folder; rename it")
    if not parts or len(parts) > _MOST_FOLDERS:
        raise InputError(f"{shown(name)}: give a file name with at most {_MOST_FOLDERS - 1} folders before it")
    return PurePosixPath(*[_safe_part(part) for part in parts])


def download_name(name: str) -> str:
    """A file name for a header of HTTP, without anything that ends it early."""
    return _UNUSUAL.sub("_", name)[-_MOST_LETTERS:].lstrip(".-") or "ct"


def shown(name: str, most: int = 80) -> str:
    """A name as it stands in a message: short, and on one line."""
    line = "".join(letter if letter.isprintable() else "?" for letter in name)
    return line if len(line) <= most else line[: most - 1] + "…"


def _safe_part(part: str) -> str:
    return _UNUSUAL.sub("_", part)[-_MOST_LETTERS:]
