"""How every command ends that reads and writes what a user names: of what can be put right, one line."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from datasets.errors import OneLineError
from datasets.standard_output import finish_output, is_unread, tell

Given = ParamSpec("Given")

# A file where a folder belongs or the reverse, a place that is not there or may not be written: the path says it all.
_PLACES = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
}  # fmt: skip
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # full, or broken: no fault of the program's


def complaint(error: BaseException) -> str | None:
    """The line about an error that a user can put right, or None: wrong input, an unusable path, a full disk, and
    standard output that nobody reads any more."""
    if isinstance(error, OneLineError):
        return str(error)
    if isinstance(error, BrokenPipeError) and is_unread():
        return "standard output: nobody reads it any more, and what was still to be printed is lost; print to a file"
    if isinstance(error, OSError):
        if error.errno in DISK:
            where = error.filename or "a file of this run"
            return str(OneLineError(f"{where}: {error.strerror}; mend that and start again"))
        if error.errno in _PLACES and error.filename:
            return str(OneLineError(f"{error.filename}: {error.strerror}; give another path"))
    return None


def told(main: Callable[Given, int]) -> Callable[Given, int]:
    """A command that says on stderr, in one line, what a user can put right, and then gives the exit status 2."""

    @wraps(main)
    def command(*arguments: Given.args, **named: Given.kwargs) -> int:
        try:
            status = main(*arguments, **named)
            print(end="", flush=True)  # later it would fail where nothing tells of it
            return status
        except Exception as error:
            line = complaint(error)
            if line is None:
                raise
            tell(f"error: {line}")
            return 2
        finally:
            finish_output()

    return command
