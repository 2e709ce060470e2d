"""Checkpoints that are written while training goes on.

The loop waits until weights and the optimiser's state have been copied into the host's memory; a thread of each rank
then writes them.  Collectives are the loop's own, so the threads tell each other by files: a rank's part gets its name
as the last act, and the first rank makes the checkpoint whole once it sees all of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from datasets.errors import InputError
from training.checkpoint_store import PartialCheckpoint, together
from training.distributed import Ranks, raise_together
from training.snapshot import snapshot

_LOOK_AGAIN = 0.05  # seconds between two looks for the other ranks' parts
_LONGEST_WAIT = 60.0  # seconds for them once this rank has left the run by itself


class BackgroundSaves:
    """At most one checkpoint is being written at a time; every rank makes the same calls.

    keep: how many of the newest checkpoints stay; 0 for all.
    """

    def __init__(self, run_dir: Path, ranks: Ranks, keep: int) -> None:
        self._run_dir, self._ranks, self._keep = run_dir, ranks, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._own_part_done, self._run_ended, self._given_up = (threading.Event() for _ in range(3))

    def begin(
        self,
        step: int,
        *,
        model: nn.Module,
        save_model: Callable[[nn.Module, Path], Any],
        capture: Callable[[], dict[str, Any]],
        description: dict[str, Any],
    ) -> Path:
        """Copy what the checkpoint of `step` holds, begin to write it, and give the folder that it will have.

        capture(): this rank's state, with tensors of its own on the CPU.
        Waits for the one before, and raises on every rank what it failed of, as `settle` does; raises InputError on
        every rank where one has no memory for the copies.
        """
        self.settle()
        checkpoint = PartialCheckpoint(self._run_dir, step, self._ranks, self._keep)
        together(checkpoint.prepare if self._ranks.is_main else None)
        held: list[Any] = []

        def copy() -> None:
            with _told_of_memory():
                held.extend((capture(), snapshot(model) if self._ranks.is_main else model))

        together(copy)
        state, whole = held

        def write() -> None:
            try:
                checkpoint.write_own_part(lambda folder: save_model(whole, folder), state, description)
                self._own_part_done.set()
                if self._ranks.is_main and self._all_written(checkpoint):
                    checkpoint.finish()
            except Exception as error:
                self._error = error
                print(f"warning: checkpoint of step {step}: {error}", flush=True)
            finally:
                self._own_part_done.set()

        self._own_part_done.clear()
        self._thread = threading.Thread(target=write, name=f"checkpoint of step {step}")
        self._thread.start()
        return checkpoint.final

    def settle(self) -> None:
        """Wait for the checkpoint in hand; raises on every rank if one rank could not write it."""
        if self._thread is None:
            return
        self._own_part_done.wait()
        try:
            raise_together(self._error)  # now every part is there
            self._thread.join()
            raise_together(self._error)
        except Exception:
            self._given_up.set()
            raise
        finally:
            self.close()
            self._error = None

    def settle_before_error(self) -> None:
        """As `settle`, where every rank is about to raise another error: what writing failed of has been told.

        A launcher ends the ranks that are left soon after the first one, so none may go while another still writes.
        """
        with suppress(Exception):
            self.settle()

    def close(self) -> None:
        """Let the thread end by itself, without asking the other ranks: this one's run has ended."""
        self._run_ended.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._run_ended.clear()
        self._given_up.clear()

    def _all_written(self, checkpoint: PartialCheckpoint) -> bool:
        """Wait for the parts of all ranks; False where one will not come, or has not long after this run's end."""
        waiting, ended = set(range(self._ranks.world_size)), 0.0
        while waiting := {rank for rank in waiting if not checkpoint.part_of(rank).is_file()}:
            if self._run_ended.is_set():
                ended = ended or time.monotonic()
                if self._given_up.is_set() or time.monotonic() - ended > _LONGEST_WAIT:
                    return False
            time.sleep(_LOOK_AGAIN)
        return True


@contextmanager
def _told_of_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("alloc|out of memory", str(error), re.IGNORECASE):
            raise
        raise InputError(
            "the host's memory has no room for a second copy of weights and the optimiser's state: "
            "leave out --background_saves"
        ) from error
