"""The folder where a server keeps what its users upload: it goes with the server, even with one that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PREFIX = "ctinstruct_page_"


@contextmanager
def temporary_root(parent: str | Path | None = None) -> Iterator[Path]:
    """A new folder that this user alone may read, removed at the end; those that killed servers left are removed first.

    parent: where; the system's folder for temporary files by default.
    """
    parent = Path(parent or tempfile.gettempdir())
    _remove_abandoned(parent)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    with open(_lock_of(root), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield root
        finally:
            _remove(root)


def _lock_of(root: Path) -> Path:
    return root.with_name(root.name + ".lock")


def _remove(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    _lock_of(root).unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Folders whose lock nobody holds: the system lets go of it when a process ends, however it ends."""
    for path in parent.glob(f"{PREFIX}*.lock"):
        try:
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            with open(path) as lock:
                _take(lock)
                _remove(path.with_suffix(""))
        except OSError:
            continue  # a running server's, or gone meanwhile


def _take(lock: IO[str]) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
