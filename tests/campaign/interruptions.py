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
from tests.campaign.forked import Ended, prepare_to_fork
from tests.campaign.jobs import CACHED, CONVERT, EVALUATE, PREPARE, TRAIN, Job, make_place
from tests.campaign.verdicts import DIFFERENT, REFUSED, SAME, UNCLEAR, Verdict

JOBS = (TRAIN, EVALUATE, CACHED, PREPARE, CONVERT)
SECONDS = 600.0


def killed_runs(count: int, seed: int) -> Iterator[Verdict]:
    """`count` kills at random times (one in five a SIGTERM), each followed by a run to the end."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> str:
        number = signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL
        after = float(random.uniform(0.05, whole))
        job.run(place, output, *job.resume, seconds=SECONDS, kill=(after, number))
        return f"{number.name} after {after:.2f} of {whole:.2f} s"

    yield from _interrupted("killed", count, seed, interrupt)


def full_disks(count: int, seed: int) -> Iterator[Verdict]:
    """`count` runs in which no file can grow beyond a random size, each followed by one with room."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> Ended:
        largest = int(10 ** random.uniform(0, 6.5))
        return job.run(place, output, *job.resume, seconds=SECONDS, largest_file=largest)

    yield from _interrupted("disk full", count, seed, interrupt)


def failing_writes(count: int, seed: int) -> Iterator[Verdict]:
    """`count` runs in which one renaming or flushing fails, or the clock jumps by a day, then a good one."""

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> Ended:
        fault = (_failing("replace", random), _failing("fsync", random), _jumping_clock)[int(random.integers(3))]
        return job.run(place, output, *job.resume, seconds=SECONDS, fault=fault)

    yield from _interrupted("I/O error", count, seed, interrupt)


def _failing(name: str, random: np.random.Generator) -> Callable[[], None]:
    """Sets a function of `os` that raises EIO at its first, second or third call."""
    left = int(random.integers(1, 4))

    def install() -> None:
        real, calls = getattr(os, name), [0]

        def failing(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == left:
                _raise(given[0])
            return real(*given, **more)

        setattr(os, name, failing)

    return install


def _raise(what: Any) -> NoReturn:
    named = (os.fspath(what),) if isinstance(what, (str, os.PathLike)) else ()
    raise OSError(errno.EIO, os.strerror(errno.EIO), *named)


def _jumping_clock() -> None:
    real, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return real() + 86400 * (-1) ** calls[0]

    time.time = jumping


def _interrupted(
    what: str, count: int, seed: int, interrupt: Callable[[Job, Path, Path, float, np.random.Generator], Ended | str]
) -> Iterator[Verdict]:
    prepare_to_fork()
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder) / "place")
        for index, job in enumerate(JOBS):
            share = count // len(JOBS) + (index < count % len(JOBS))
            if share:
                yield from _of_job(f"{job.name}, {what}", job, place, share, seed, interrupt)


def _of_job(
    name: str, job: Job, place: Path, count: int, seed: int, interrupt: Callable[..., Ended | str]
) -> Iterator[Verdict]:
    output = place.parent / "output"
    shutil.rmtree(output, ignore_errors=True)
    begun = time.monotonic()
    whole = job.run(place, output, seconds=SECONDS)
    seconds, expected = time.monotonic() - begun, job.result(output)
    assert whole.status == 0 and expected is not None, whole
    for number in range(count):
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(place / "cache", ignore_errors=True)
        random = np.random.default_rng([seed, number, *name.encode()])
        done = interrupt(job, place, output, seconds, random)
        between = job.result(output)
        again = job.run(place, output, *job.resume, seconds=SECONDS)
        yield Verdict(name, number, *judged_after(done, between, again, job.result(output), expected))


def judged_after(done: Ended | str, between: Any, again: Ended, found: Any, expected: Any) -> tuple[str, str]:
    """Of an interrupted run and the one after it: nothing half is taken for whole, and the end is the same."""
    if between is not None and between != expected:
        return DIFFERENT, f"a result that is not whole was left: {str(done)[:300]}"
    if isinstance(done, Ended):
        outcome, detail = judged(done, between, expected)
        if outcome not in (SAME, REFUSED):
            return outcome, detail
    if again.status != 0 or found != expected:
        return (UNCLEAR if again.status else DIFFERENT), f"{str(done)[:200]}; then {str(again)[-500:]}"
    return SAME, str(done)[:200]
