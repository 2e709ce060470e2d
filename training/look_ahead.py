"""The batches of the coming step, which are there before it begins, and the next of them on its way.

A rank that met a sample it cannot read in the middle of a step could not make that step, while the others wait for its
gradients.  So every rank knows a step's batches before it begins, and the ranks tell each other once a step.  A step of
more than `MOST_AHEAD` is done in portions of so many, since a whole one may not fit into memory: between two portions
the ranks tell each other once more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from datasets.errors import InputError
from training import distributed
from training.batches import BadInput, DeviceCopies, Replaced

MOST_AHEAD = 32  # micro-batches in the CPU's memory: of volumes of 6 patches, about 50 MB each, 1.6 GB
_END = object()


class StepBatches:
    """Hands out batches in the order of `stream`, and keeps as many of those behind them as a portion of a step has.

    unusable: whether a batch of the coming portion cannot be used on any rank; `fill` and `training.update` agree on
    that of a step's first.
    waited: seconds that were spent waiting for batches; whoever reads it sets it back.
    """

    def __init__(self, stream: Iterator[Any], accumulation_steps: int, device: torch.device) -> None:
        self._stream, self._of_step = stream, accumulation_steps
        self._portion = min(accumulation_steps, MOST_AHEAD)
        self._copies = DeviceCopies(device)
        self._batches: deque[Any] = deque()
        self._reasons: deque[list[str]] = deque()
        self._on_device: Any = None  # the first of them, copied or on its way
        self.problem: str | None = None  # of this rank's next batch, behind which none is read
        self.unusable = False
        self.waited = 0.0

    def fill(self, to_end: Callable[[], str]) -> str:
        """Read the batches of the first portion of the first step; every rank calls this.

        Returns the first rank's word where `to_end()` has one on any, which is then why no step is to be made.
        """
        while len(self._batches) < self._portion and self.fetch() and not to_end():
            pass
        said = distributed.all_gather_object((self.problem is not None, to_end()))
        self.unusable = any(problem for problem, _ in said)
        return next((reason for _, reason in said if reason), "")

    def fetch(self) -> bool:
        """Read one more batch, and send the first of them on its way; False where there is none to read."""
        if self.problem is not None:
            return False
        begun = time.monotonic()
        batch = next(self._stream, _END)
        self.waited += time.monotonic() - begun
        if batch is _END:
            return False
        if isinstance(batch, BadInput):
            self.problem = batch.message
            return False
        self._reasons.append(batch.reasons if isinstance(batch, Replaced) else [])
        self._batches.append(batch.value if isinstance(batch, Replaced) else batch)
        self._send()
        return True

    def take(self) -> tuple[Any, list[str]]:
        """The next batch, on the device, and why samples were replaced in it."""
        self._batches.popleft()
        batch, self._on_device = self._copies.arrived(self._on_device), None
        self._send()
        return batch, self._reasons.popleft()

    def begin(self, micro_step: int) -> None:
        """Where a portion begins with this micro-step of a step, counted from 0, raise InputError on every rank if a
        batch of it cannot be used on any; all call this."""
        if micro_step % self._portion:
            return
        # a problem of the next step's, which may be known by now, is not what stops this one
        short = len(self._batches) < min(self._portion, self._of_step - micro_step)
        if micro_step:
            self.unusable = any(distributed.all_gather_object(short))
        if self.unusable:
            distributed.raise_together(InputError(self.problem) if short and self.problem is not None else None)

    def _send(self) -> None:
        if self._batches and self._on_device is None:
            self._on_device = self._copies.send(self._batches[0])
