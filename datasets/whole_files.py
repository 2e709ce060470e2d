"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError, WriteError

if TYPE_CHECKING:  # neither is needed for texts
    from matplotlib.figure import Figure
    from PIL.Image import Image


@contextmanager
def written_whole(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """For each target (file or folder) a path beside it to write to; all are renamed when the block ends without error.

    What the block did not write is passed over.  On an error all that it wrote is removed, and the targets are as they
    were.  A file that is there is replaced, a folder that is there is not.

    Raises InputError where a folder is there, WriteError where the target cannot be written.
    """
    for target in targets:
        if target.is_dir():
            raise InputError(f"{target}: is a folder already; remove it, or give another name")
    # the ending stays: some writers go by it
    parts = [target.with_name(f".{os.getpid()}.part.{target.name}") for target in targets]
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield parts
        for part, target in zip(parts, targets, strict=True):
            if part.exists():
                os.replace(part, target)
    except OSError as error:
        raise WriteError(f"{error.filename or targets[0]}: cannot be written ({error.strerror or error})") from error
    finally:
        for part in parts:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            elif part.exists():
                part.unlink()


def write_whole_bytes(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all; gives its path, and raises as `written_whole`."""
    with written_whole([path]) as (part,):
        part.write_bytes(content)
    return path


def write_whole_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all; gives its path, and raises as `written_whole`."""
    return write_whole_bytes(path, text.encode("utf-8"))


def write_rows(path: Path, rows: Any, lines: bool = False) -> None:
    """A manifest as JSON, or as JSON lines."""
    if lines:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def save_picture(picture: Image | Figure, path: Path, **options: Any) -> Path:
    """Write a picture as PNG, whole or not at all; gives its path.

    options: of Pillow's `save`, or of matplotlib's `savefig`.  Raises as `written_whole`.
    """
    content = io.BytesIO()
    write = picture.save if hasattr(picture, "save") else picture.savefig
    write(content, format="png", **options)
    return write_whole_bytes(path, content.getvalue())
