"""The exceptions for what a user can put right: input, and a disk that cannot be written."""

from __future__ import annotations

import re

_LINE_BREAK = re.compile(r"[\n\r\v\f\x1b\x85\u2028\u2029]")  # and what begins a terminal's commands


class OneLineError(ValueError):
    """The message is one line for the user, which names the file, row or option and says what to do.

    The entry scripts print the message alone and exit with status 2, so it has to stand without a traceback.  A line
    break in a file's name, or in a library's words, is written as \\n.  Raised as one of its subclasses.
    """

    def __str__(self) -> str:
        return _LINE_BREAK.sub(lambda found: found[0].encode("unicode_escape").decode(), super().__str__())


class InputError(OneLineError):
    """A file, manifest row or option is unusable.  Where others are left, they may be gone on with."""


class WriteError(OneLineError):
    """A file cannot be written: a full disk, a folder that is closed.  It is no fault of a sample's, so a run ends."""


class CheckpointError(InputError):
    """Weights or a whole checkpoint cannot be used; the message names the folder and the file or key."""
