"""Many inputs one after the other in one child process, which is replaced when it hangs, dies or takes too much."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from tests.campaign.verdicts import CRASH, HANG, NOISE, Verdict

ROOM = 2**30  # bytes that a child may map beyond what it has when it starts


def served(
    target: str, count: int, work: Callable[[int], Verdict], seconds: float = 20.0, first: int = 0
) -> Iterator[Verdict]:
    """The verdict of `work` for each number of `first`, ..., `first + count - 1`.

    seconds: that one number may take; then its child is ended, and the next number goes to a new one.
    """
    context = multiprocessing.get_context("fork")  # what was imported once is there in every child
    number = first
    while number < first + count:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_serve, args=(sender, number, first + count, work), daemon=True)
        child.start()
        sender.close()
        while number < first + count:
            try:
                if not receiver.poll(seconds):
                    verdict = Verdict(target, number, HANG, f"no answer within {seconds:g} s")
                else:
                    verdict = receiver.recv()
            except EOFError:
                child.join()
                verdict = Verdict(target, number, CRASH, f"the process ended with status {child.exitcode}")
            number += 1
            yield verdict
            if verdict.outcome in (HANG, CRASH):
                break
        child.kill()
        child.join()
        receiver.close()


def _serve(sender: Connection, start: int, end: int, work: Callable[[int], Verdict]) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, mapped + ROOM))
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)  # of the C libraries too
        for number in range(start, end):
            said.truncate(0)
            verdict = work(number)
            said.seek(0)
            if verdict.survived and (words := said.read(200)):
                verdict = Verdict(verdict.target, number, NOISE, repr(words))
            sender.send(verdict)
    sender.close()


class PeakMemory:
    """The most memory that this process has held since `reset`, in bytes."""

    def __init__(self) -> None:
        self._start = 0

    def reset(self) -> None:
        # else memory that was freed but is still held is taken again, which the peak does not show
        getattr(ctypes.CDLL(None), "malloc_trim", bool)(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
        self._start = self._held("VmHWM")

    def grown(self) -> int:
        return self._held("VmHWM") - self._start

    @staticmethod
    def _held(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
