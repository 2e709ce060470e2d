"""What a user is told of a file that the server cannot write: nothing of the server's paths, which its log has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import WriteError

log = logging.getLogger(__name__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, an error of the system becomes a WriteError; it names `path` where the system names no file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{error.filename or path}: cannot be written ({error.strerror or error})") from error


def told(error: WriteError) -> str:
    """The user's line; the error's own goes to the log."""
    log.error("%s", error)
    return "the server cannot write this: its disk is full or closed; tell whoever runs it"
