"""The same work for many cases, by several processes where there is enough of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH_PROCESSES = 5000  # files; to start processes takes some seconds
_ALONE = 1.0  # seconds of work here before others are asked: starting them takes about as long


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int = 1, chunk: int = 1
) -> Iterator[Result]:
    """The results in the order of the items.

    work: a module's function.  chunk: how many items a process takes at a time.
    """
    start, done = perf_counter(), 0
    while done < len(items) and (workers <= 1 or perf_counter() - start < _ALONE):
        yield work(items[done])
        done += 1
    if done == len(items):
        return
    # Not by fork: a process that has started threads (torch's, rich's) must not be copied.
    with ProcessPoolExecutor(workers, get_context("spawn"), _without_interrupts) as pool:
        yield from pool.map(work, items[done:], chunksize=max(1, min(chunk, (len(items) - done) // workers)))


def header_pool(files: int, workers: int) -> Executor:
    """What reads the headers of so many files: threads, or for many files processes.

    Threads wait for the disk together, but parse one by one.
    """
    if files < WORTH_PROCESSES or workers <= 1:
        return ThreadPoolExecutor(max(workers, 1))
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _without_interrupts() -> None:
    """Ctrl-C goes to the process that asked for the work, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
