"""How many cores this process may use: a batch system or `taskset` may have given it fewer than the machine has."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """At least 1; the machine's where the system does not tell more."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
