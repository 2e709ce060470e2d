"""Checkpoints that are written while training goes on.

The loop waits until weights and the optimiser's state have been copied into the host's memory; a thread of each rank
then writes them.  Collectives are the loop's own, so the threads tell each other by files: a rank's part gets its name
as the last act, and the first rank makes the checkpoint whole once it sees all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from training.checkpoint_store import PartialCheckpoint, together
from training.distributed import Ranks, raise_together
from training.snapshot import copied, snapshot

_LOOK_AGAIN = 0.05  # seconds between two looks for the other ranks' parts
_LONGEST_WAIT = 60.0  # seconds for them once this rank's run has ended, or another rank's part has failed


class BackgroundSaves:
    """At most one checkpoint is being written at a time; every rank makes the same calls.

    keep: how many of the newest checkpoints stay; 0 for all.
    """

    def __init__(self, run_dir: Path, ranks: Ranks, keep: int) -> None:
        self._run_dir, self._ranks, self._keep = run_dir, ranks, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._own_part_done, self._no_longer_needed = threading.Event(), threading.Event()

    def begin(
        self,
        step: int,
        *,
        model: nn.Module,
        save_model: Callable[[nn.Module, Path], Any],
        rank_state: dict[str, Any],
        description: dict[str, Any],
    ) -> Path:
        """Copy what the checkpoint of `step` holds, begin to write it, and give the folder that it will have.

        Waits for the one before, and raises on every rank what it failed of, as `settle` does.
        """
        self.settle()
        checkpoint = PartialCheckpoint(self._run_dir, step, self._ranks, self._keep)
        together(checkpoint.prepare if self._ranks.is_main else None)
        state = copied(rank_state)
        held = snapshot(model) if self._ranks.is_main else model

        def write() -> None:
            try:
                checkpoint.write_own_part(lambda folder: save_model(held, folder), state, description)
                self._own_part_done.set()
                if self._ranks.is_main and self._all_written(checkpoint):
                    checkpoint.finish()
            except Exception as error:
                self._error = error
                print(f"checkpoint of step {step}: {error}; training ends where the next is due", flush=True)
            finally:
                self._own_part_done.set()

        self._own_part_done.clear()
        # no daemon: a process that ends while a checkpoint is written ends after it
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
        finally:
            self.close()
            self._error = None

    def close(self) -> None:
        """Let the thread end by itself, without asking the other ranks: after an error, or at a run's end."""
        self._no_longer_needed.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._no_longer_needed.clear()

    def _all_written(self, checkpoint: PartialCheckpoint) -> bool:
        """Wait for the parts of all ranks; False where one has not come long after this rank's run has ended."""
        waiting, ended = set(range(self._ranks.world_size)), 0.0
        while waiting := {rank for rank in waiting if not checkpoint.part_of(rank).is_file()}:
            if self._no_longer_needed.is_set():
                ended = ended or time.monotonic()
                if time.monotonic() - ended > _LONGEST_WAIT:
                    return False
            time.sleep(_LOOK_AGAIN)
        return True
