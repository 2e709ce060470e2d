"""What a user is told of a file that the server cannot write: nothing of the server's paths, which its log has."""

from __future__ import annotations

import logging

from datasets.errors import WriteError

log = logging.getLogger(__name__)


def told(error: WriteError) -> str:
    """The user's line; the error's own goes to the log."""
    log.error("%s", error)
    return "the server cannot write this: its disk is full or closed; tell whoever runs it"
