"""One run at a time writes to a folder, of a training or of an evaluation; a lock that no crash can leave behind.

The lock is the operating system's (flock), so it ends with the process that holds it, however that ends.  The file
names the holder only for the message, and stays.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

from datasets.errors import InputError, OneLineError
from training import distributed
from training.distributed import Ranks

LOCK = ".lock"
Parts = ParamSpec("Parts")
Result = TypeVar("Result")


def lock_folder(folder: Path) -> IO[str]:
    """The lock of a folder, which is made if need be; held until the result is closed or its process ends.

    Raises InputError where another process, or this one, holds it: names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stream = (folder / LOCK).open("a+", encoding="utf-8")  # stays open: closing it ends the lock
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "another process"
        stream.close()
        raise InputError(f"{folder}: {holder} is writing there; wait for it, end it, or name another folder") from None
    except OSError:  # a file system without locks: nothing to be said against going on
        return stream
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    stream.flush()
    return stream


@contextmanager
def locked(folders: Iterable[Path], ranks: Ranks) -> Iterator[None]:
    """Inside, rank 0 holds the locks of the folders; every rank raises where it cannot have them."""
    held: list[IO[str]] = []
    error = None
    if ranks.is_main:
        try:
            held += [lock_folder(folder) for folder in folders]
        except (OneLineError, OSError) as problem:
            error = problem
    try:
        distributed.raise_together(error)
        yield
    finally:
        for stream in held:
            stream.close()


def holding_run_dir(
    function: Callable[Concatenate[Any, Any, Ranks, Parts], Result],
) -> Callable[Concatenate[Any, Any, Ranks, Parts], Result]:
    """A training function (model, settings, ranks, ...) that holds the lock of `settings.run_dir` while it runs."""

    @wraps(function)
    def holding(model: Any, settings: Any, ranks: Ranks, *args: Parts.args, **parts: Parts.kwargs) -> Result:
        settings.validate()
        with locked([Path(settings.run_dir)], ranks):
            return function(model, settings, ranks, *args, **parts)

    return holding
