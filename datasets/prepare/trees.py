"""Files of a data set's tree, listed by names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets.prepare.case import Findings


def files_under(folder: Path, endings: str | tuple[str, ...]) -> Iterator[Path]:
    """Every file below a folder whose name has one of the endings, in the order of the names; hidden ones are left out.

    Links to folders are followed.  Nothing where the folder is missing.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(endings) and entry.is_file():
            yield Path(entry.path)
        elif entry.is_dir():
            yield from files_under(Path(entry.path), endings)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in one, in the order of their names; hidden ones are left out."""
    try:
        with os.scandir(folder) as found:
            return sorted(Path(entry.path) for entry in found if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def by_name(paths: Iterator[Path], findings: Findings) -> dict[str, Path]:
    """Paths by file name; a name that is there twice is a problem."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.name in found:
            findings.problems.append(f"{path}: is also {found[path.name]}; keep one of the two")
        found.setdefault(path.name, path)
    return found


def inside(source: Path, *names: str) -> Path:
    """The first of the folders `names` that lies in `source`; `source` itself where none does."""
    return next((source / name for name in names if (source / name).is_dir()), source)
