"""Kills of training on two ranks: of all processes, of the launcher, of one rank; then a run to the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from tests.campaign.forked import Ended
from tests.campaign.interruptions import DRAWS, judged_after
from tests.campaign.jobs import TRAIN
from tests.campaign.verdicts import HANG, UNCLEAR, Verdict
from tests.launch import launch

VICTIMS = ("everything", "the launcher", "a rank")
SECONDS = 900.0  # for a run
LONGEST = 120.0  # seconds that a process may outlive the one that was killed: it saves first
EARLIEST = 0.3  # of a whole run; before, libraries are loaded and nothing is written


def killed_ranks(count: int, seed: int) -> Iterator[Verdict]:
    """`count` kills at random times, of each of `VICTIMS` in turn, each followed by a run to the end."""
    if count < 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        begun = time.monotonic()
        whole = _ended(_start(output))
        seconds, expected = time.monotonic() - begun, TRAIN.result(output)
        assert whole.status == 0 and expected is not None, whole
        for number in range(count):
            victim = VICTIMS[number % len(VICTIMS)]
            random = np.random.default_rng([seed, number, *b"two ranks"])
            target = f"training on two ranks, {victim} killed"
            for _ in range(DRAWS):
                shutil.rmtree(output, ignore_errors=True)
                signal_number = signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL
                after = seconds * float(random.uniform(EARLIEST, 1.0))
                begun = time.monotonic()
                hit, left, ended = _killed(output, victim, signal_number, after)
                between = TRAIN.result(output)
                struck = hit and (ended.status != 0 or between is None)
                if struck or left or ended.status != 0:
                    break
                seconds = min(seconds, time.monotonic() - begun)  # that run was a whole one too
            done = f"{signal_number.name} to {victim} after {after:.1f} of {seconds:.1f} s"
            if left:
                yield Verdict(target, number, HANG, f"{done}; {left} processes stayed for {LONGEST:g} s")
                continue
            if not struck and ended.status != 0:
                yield Verdict(target, number, UNCLEAR, f"{done}, before which it had ended: {ended}"[:500])
                continue
            again = _ended(_start(output, *TRAIN.resume))
            yield Verdict(target, number, *judged_after(struck, done, between, again, TRAIN.result(output), expected))


def _start(output: Path, *more: str) -> subprocess.Popen:
    return launch(*TRAIN.words(output.parent, output), *more, ranks=2)


def _ended(process: subprocess.Popen) -> Ended:
    try:
        said, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, errors = process.communicate()
        return Ended(None, said, errors)
    return Ended(process.returncode, said, errors)


def _killed(output: Path, victim: str, number: signal.Signals, after: float) -> tuple[bool, int, Ended]:
    """Start a run and kill part of it.

    Whether one of those that are meant ran still, how many processes were there `LONGEST` seconds later, and the end.
    """
    process, begun = _start(output), time.monotonic()
    while process.poll() is None and time.monotonic() - begun < after:
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    hit = [sent(chosen, number) for chosen in victims_of(victim, process.pid, below)]
    _, alive = psutil.wait_procs(below, timeout=LONGEST)
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    return any(hit), len(alive), _ended(process)


def sent(process: int, number: signal.Signals) -> bool:
    """Send a signal; whether that process ran still, so that it is not the rest of one that has ended."""
    try:
        ran = psutil.Process(process).status() != psutil.STATUS_ZOMBIE
        os.kill(process, number)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False  # it has ended in between
    return ran


def victims_of(victim: str, starter: int, below: Sequence[psutil.Process]) -> list[int]:
    """The ids of the processes to kill; none where the one that is meant is not there.

    starter: the process that started all others.  below: those others; a rank is a child of the launcher.
    """
    if victim == "everything":
        return [process.pid for process in below] + ([starter] if below else [])
    launchers = [process.pid for process in below if "deepspeed.launcher.launch" in _words(process)]
    if victim == "the launcher":
        return launchers
    return [process.pid for process in below if _parent(process) in launchers][-1:]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0
