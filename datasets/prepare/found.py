"""Data sets found under a folder by their marks, without walking through them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets.prepare.data_set import DataSet

LEVELS = 2  # of folders below the root that may be a data set
MOST_FOLDERS = 300  # a folder with more holds cases, not data sets


def find(root: Path, data_sets: Iterable[DataSet]) -> dict[str, list[Path]]:
    """By data set the folders in which each of its marks matches something; the outermost ones, in order of names."""
    found: dict[str, list[Path]] = {}
    folders = _candidates(root)
    for data_set in data_sets:
        places: list[Path] = []
        for folder in folders:
            if not any(folder.is_relative_to(place) for place in places) and is_there(folder, data_set):
                places.append(folder)
        if places:
            found[data_set.name] = places
    return found


def is_there(folder: Path, data_set: DataSet) -> bool:
    """Whether a folder is this data set as downloaded."""
    return bool(data_set.marks) and all(next(folder.glob(mark), None) is not None for mark in data_set.marks)


def ambiguous(found: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The data sets that were found in several folders."""
    return {name: places for name, places in found.items() if len(places) > 1}


def _candidates(root: Path) -> list[Path]:
    """The root and the folders up to `LEVELS` below it, outer ones first."""
    folders = level = [root]
    for _ in range(LEVELS):
        level = [inner for folder in level for inner in _inner(folder)]
        folders = folders + level
    return folders


def _inner(folder: Path) -> list[Path]:
    """The folders in a folder; none where they are too many to be data sets, or it may not be read."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir():
                    names.append(entry.name)
                    if len(names) > MOST_FOLDERS:
                        return []
    except OSError:
        return []
    return [folder / name for name in sorted(names)]
