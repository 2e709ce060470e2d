"""The exceptions for input that a user can put right."""

from __future__ import annotations

import re

_LINE_BREAK = re.compile(r"[\n\r\v\f\x1b\x85\u2028\u2029]")  # and what begins a terminal's commands


class InputError(ValueError):
    """A file, manifest row or option is unusable; the message is one line that names it and says what to do.

    The entry scripts print the message alone and exit with status 2, so it has to stand without a traceback.  A line
    break in a file's name, or in a library's words, is written as \\n.
    """

    def __str__(self) -> str:
        return _LINE_BREAK.sub(lambda found: found[0].encode("unicode_escape").decode(), super().__str__())


class WriteError(InputError):
    """A file cannot be written: a full disk, a folder that is closed.  It is no fault of a sample's, so a run ends."""


class CheckpointError(InputError):
    """Weights or a whole checkpoint cannot be used; the message names the folder and the file or key."""
