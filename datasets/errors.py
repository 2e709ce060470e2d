"""The one exception for input that a user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """A file, manifest row or option is unusable; the message is one line that names it and says what to do.

    The entry scripts print the message alone and exit with status 2, so it has to stand without a traceback.
    """
