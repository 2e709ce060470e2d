"""The exceptions for input that a user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """A file, manifest row or option is unusable; the message is one line that names it and says what to do.

    The entry scripts print the message alone and exit with status 2, so it has to stand without a traceback.
    """


class CheckpointError(InputError):
    """Weights or a whole checkpoint cannot be used; the message names the folder and the file or key."""
