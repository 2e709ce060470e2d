"""What a program prints where nobody may read it any more: `head` leaves early, and a disk may be full."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress


def is_unread() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or no file of the system's
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def tell(text: str) -> None:
    """Print to stderr; nothing happens where nobody reads that either, as after ``2>&1 | head``."""
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def finish_output() -> None:
    """Write out what has been printed, and lose what cannot be written, of which Python itself would make a traceback.

    Whoever wants to know of a failure flushes before.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            print(end="", file=stream, flush=True)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # the buffer keeps what failed, and is flushed again at the end
            os.close(nowhere)
