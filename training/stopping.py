"""Before which micro-step a run ends ahead of time, which all ranks have to agree on.

A rank that left alone would leave the others waiting for its gradients.  Asking all of them before every micro-step
would make each wait for the slowest.  So what has been begun is one entry of the process group's key-value store,
which changes by compare-and-set alone: no rank waits for another, and no device is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from training import distributed

_KEY = "begun"
_runs = count()  # of this process, which is the same number on all ranks


def shared_store(first: int) -> Store | None:
    """The store of a run whose first micro-step has the number `first`, or None for a rank alone; all ranks call it."""
    if distributed.world_size() == 1:
        return None
    store = PrefixStore(f"stopping/{next(_runs)}", _get_default_store())
    if torch.distributed.get_rank() == 0:
        store.set(_KEY, str(first - 1))
    distributed.barrier()
    return store


class Stopping:
    """Asked by every rank before every micro-step, by its number since the first of the first step of all.

    to_end: why this rank's run has to end, a word, or "" while it may go on; once it is a word it stays one.
    store: what `shared_store` gives.

    The store's entry is the number of the last micro-step that a rank has begun.  A rank that has to end writes behind
    it, in the same exchange, that the one after it is not to be begun.  Those that are behind run up to there.
    """

    def __init__(self, to_end: Callable[[], str], store: Store | None) -> None:
        self._to_end, self._store = to_end, store

    def before(self, number: int) -> str:
        """Why the run ends before this micro-step, "" where it does not; the same on every rank."""
        reason = self._to_end()
        if self._store is None:
            return reason
        found = self._exchange(str(number - 1), str(number) if not reason else f"{number} {reason}")
        while reason and " " not in found:  # another rank has begun this one, or one behind it
            found = self._exchange(found, f"{int(found) + 1} {reason}")
        left_out, _, why = found.partition(" ")
        return why if why and number >= int(left_out) else ""

    def _exchange(self, expected: str, wanted: str) -> str:
        """The entry after `wanted` was put in the place of `expected`, or as it is where it was not that."""
        assert self._store is not None
        return self._store.compare_set(_KEY, expected, wanted).decode()
