"""Kills, full disks and failing writes under whole commands: what is finished afterwards is as if nothing had been."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tests.campaign.commands import judged
from tests.campaign.forked import Ended, Fault, prepare_to_fork
from tests.campaign.jobs import CACHED, CONVERT, EVALUATE, PREPARE, TRAIN, Job, make_place
from tests.campaign.verdicts import DIFFERENT, NOT_STRUCK, REFUSED, SAME, UNCLEAR, Verdict

JOBS = (TRAIN, EVALUATE, CACHED, PREPARE, CONVERT)
SECONDS = 600.0
DRAWS = 8  # of an interruption, until one strikes

Interrupt = Callable[[Job, Path, Path, float, np.random.Generator], tuple[bool, Ended | str]]
# Runs a job that takes so many seconds with an interruption: whether it struck, and how the run ended; in words where
# it struck and any end is right.


def killed_runs(count: int, seed: int) -> Iterator[Verdict]:
    """`count` kills at random times (one in five a SIGTERM), each followed by a run to the end."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> tuple[bool, Any]:
        number = signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL
        after = whole * float(random.uniform(0.05, 1.0))
        ended = job.run(place, output, *job.resume, seconds=SECONDS, kill=(after, number))
        struck = ended.struck and ended_by(number, ended.status, job.result(output))
        return struck, f"{number.name} after {after:.2f} of {whole:.2f} s" if struck else ended

    yield from _interrupted("killed", count, seed, interrupt)


def full_disks(count: int, seed: int) -> Iterator[Verdict]:
    """`count` runs in which no file can grow beyond a random size, each followed by one with room."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> tuple[bool, Any]:
        largest = int(10 ** random.uniform(0, 6.5))
        ended = job.run(place, output, *job.resume, seconds=SECONDS, largest_file=largest)
        return ended.struck, ended

    yield from _interrupted("disk full", count, seed, interrupt)


def failing_writes(count: int, seed: int) -> Iterator[Verdict]:
    """`count` runs in which one renaming or flushing fails, or the clock jumps by a day, then a good one."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> tuple[bool, Any]:
        left = int(random.integers(1, 4))
        fault = (_failing("replace", left), _failing("fsync", left), _jumping_clock)[int(random.integers(3))]
        ended = job.run(place, output, *job.resume, seconds=SECONDS, fault=fault)
        return ended.struck, ended

    yield from _interrupted("I/O error", count, seed, interrupt)


def ended_by(number: signal.Signals, status: int | None, result: Any) -> bool:
    """Whether a signal that was sent to a run ended it; training takes SIGTERM, saves and ends before it is done."""
    return status == -number or (number == signal.SIGTERM and status is not None and result is None)


def _failing(name: str, left: int) -> Fault:
    """Sets a function of `os` that raises EIO at its call number `left`, counted from 1."""

    def install(struck: Callable[[], None]) -> None:
        real, calls = getattr(os, name), [0]

        def failing(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == left:
                struck()
                _raise(given[0])
            return real(*given, **more)

        setattr(os, name, failing)

    return install


def _raise(what: Any) -> NoReturn:
    named = (os.fspath(what),) if isinstance(what, (str, os.PathLike)) else ()
    raise OSError(errno.EIO, os.strerror(errno.EIO), *named)


def _jumping_clock(struck: Callable[[], None]) -> None:
    real, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        if calls[0] == 1:
            struck()
        return real() + 86400 * (-1) ** calls[0]

    time.time = jumping


def _interrupted(what: str, count: int, seed: int, interrupt: Interrupt) -> Iterator[Verdict]:
    prepare_to_fork()
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder) / "place")
        for index, job in enumerate(JOBS):
            share = count // len(JOBS) + (index < count % len(JOBS))
            if share:
                yield from _of_job(f"{job.name}, {what}", job, place, share, seed, interrupt)


def _of_job(name: str, job: Job, place: Path, count: int, seed: int, interrupt: Interrupt) -> Iterator[Verdict]:
    output = place.parent / "output"
    shutil.rmtree(output, ignore_errors=True)
    begun = time.monotonic()
    whole = job.run(place, output, seconds=SECONDS)
    seconds, expected = time.monotonic() - begun, job.result(output)
    assert whole.status == 0 and expected is not None, whole
    for number in range(count):
        random = np.random.default_rng([seed, number, *name.encode()])
        for _ in range(DRAWS):
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(place / "cache", ignore_errors=True)
            begun = time.monotonic()
            struck, done = interrupt(job, place, output, seconds, random)
            if struck or not isinstance(done, Ended) or done.status != 0:
                break
            seconds = min(seconds, time.monotonic() - begun)  # that run was a whole one too
        between = job.result(output)
        again = job.run(place, output, *job.resume, seconds=SECONDS)
        yield Verdict(name, number, *judged_after(struck, done, between, again, job.result(output), expected))


def judged_after(
    struck: bool, done: Ended | str, between: Any, again: Ended, found: Any, expected: Any
) -> tuple[str, str]:
    """Of an interrupted run and the one after it: nothing half is taken for whole, and the end is the same.

    A run that was not struck shows nothing of this; that it ended ill, or left something else, is a fault all the same.
    """
    if between is not None and between != expected:
        return DIFFERENT, f"a result that is not whole was left: {str(done)[:300]}"
    if isinstance(done, Ended):
        outcome, detail = judged(done, between, expected)
        if outcome not in (SAME, REFUSED):
            return outcome, detail
    if again.status != 0 or found != expected:
        return (UNCLEAR if again.status else DIFFERENT), f"{str(done)[:200]}; then {str(again)[-500:]}"
    return (SAME if struck else NOT_STRUCK), str(done)[:200]
