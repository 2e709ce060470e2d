"""A rank on which nothing goes on any more is named, and what each of its threads waits for is written down.

A rank that waits for another in a collective looks like one that computes.  The files of all ranks side by side show
which of them is elsewhere.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from datasets.errors import InputError

_entered: list[Watchdog] = []


def progressed() -> None:
    """Tell the watchdog of this process, if there is one, that something of an evaluation is done."""
    for watchdog in _entered:
        watchdog.last = time.monotonic()


@contextmanager
def following(model: torch.nn.Module) -> Iterator[None]:
    """Inside, each part of `model` that has computed is progress: of one volume too, which may take long.

    A compiled model calls no parts; its evaluation has to call `progressed` by itself.
    """
    hooks = [part.register_forward_hook(_computed) for part in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _computed(*_: Any) -> None:
    if not torch.compiler.is_compiling():  # else the hook would break the graph
        progressed()


class Watchdog:
    """While it is entered, a thread waits for `step_ended`; after `minutes` without it, it writes the stacks.

    They are appended to `hang_rank_K.txt` in the run's folder, and a line on stderr says so; again only when another
    `minutes` have passed.  The run itself is left to go on.  0 minutes watch nothing.  An evaluation may take longer:
    see `following` and `progressed`.  A call that never gives back the interpreter's lock holds this thread up too.
    """

    def __init__(self, run_dir: Path, rank: int, minutes: float, step: int = 0) -> None:
        self.file = run_dir / f"hang_rank_{rank}.txt"
        self._rank, self._seconds, self._step = rank, min(60 * minutes, threading.TIMEOUT_MAX), step
        self.last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.last = time.monotonic()
        _entered.append(self)
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        _entered.remove(self)
        if self._thread.is_alive():
            self._thread.join()

    def step_ended(self, step: int) -> None:
        """Something of the run came to its end: a step, or the evaluation or checkpoint after it."""
        self._step, self.last = step, time.monotonic()

    def _watch(self) -> None:
        told = self.last  # the step that is waited for, or the time of the last word about it
        while not self._over.wait(max(0.0, self._seconds - (time.monotonic() - max(told, self.last)))):
            if time.monotonic() - max(told, self.last) >= self._seconds:
                told = time.monotonic()
                self._tell(told - self.last)

    def _tell(self, waited: float) -> None:
        words = f"rank {self._rank}: no step has ended for {waited / 60:.3g} minutes, since step {self._step}"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now(timezone.utc).isoformat(timespec='seconds')} {words}\n")
                file.flush()  # faulthandler writes past this object's buffer
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
            where = f"what its threads are doing is in {self.file}"
        except OSError as error:
            where = f"what its threads are doing could not be written to {self.file} ({error.strerror})"
        print(f"warning: {InputError(f'{words}; {where}')}", file=sys.stderr, flush=True)
