"""Paths of a record, relative to one manifest's folder, as seen from another."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any


def moved(value: Any, source: Path, target: Path) -> Any:
    """A path, or a list or mapping of paths, relative to folder `source`, as seen from folder `target`.

    Absolute paths and empty ones stay as they are, and so does what is no path.
    """
    if isinstance(value, list):
        return [moved(item, source, target) for item in value]
    if isinstance(value, dict):
        return {key: moved(item, source, target) for key, item in value.items()}
    if not isinstance(value, str) or not value or os.path.isabs(value):
        return value
    return os.path.relpath((source / value).absolute(), target.absolute())


def with_moved_paths(record: dict[str, Any], fields: Collection[str], source: Path, target: Path) -> dict[str, Any]:
    """The record with the paths of these fields moved."""
    return {name: moved(value, source, target) if name in fields else value for name, value in record.items()}
