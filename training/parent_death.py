"""A process that outlives its parent is told: ranks whose launcher was killed, loaders whose rank was.

Otherwise the ranks of a killed launcher train on to the end, unseen, and loaders wait for seconds.  Linux alone can say
so; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def signal_at_parents_death(number: signal.Signals, parent: int | None = None) -> None:
    """From now on this process gets signal `number` when its parent ends, or at once where that has happened.

    parent: the process that is meant, where it may have ended before this call; None where it has surely not.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
