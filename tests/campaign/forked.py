"""A command of the project in a fork of this process, in which all that it imports is loaded already.

A command starts in a fraction of a second so, and runs the very file that a user runs, under limits and faults.
"""

from __future__ import annotations

import fcntl
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

Fault = Callable[[Callable[[], None]], None]  # changes the process, and calls what it is given once it has done harm

_PIPE = 2**20
_F_SETPIPE_SZ = 1031


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    status: negative for a signal, None where it was ended for taking too long.  struck: the signal was sent before the
    end, a file met the largest size, or the fault has said that it came.
    """

    status: int | None
    output: str
    errors: str
    struck: bool = False

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.errors.splitlines() if line.strip()]


def prepare_to_fork() -> None:
    """Load what the commands import.  No thread may be there when this process forks, so torch gets none."""
    os.environ.update(HF_HUB_OFFLINE="1", DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(1)
    for script in ("evaluate_CTInstruct", "train_CTInstruct", "models.checkpoint", "datasets.prepare.instructions"):
        __import__(script)


def forked(
    words: Sequence[str],
    *,
    seconds: float = 120.0,
    kill: tuple[float, int] | None = None,
    fault: Fault | None = None,
    largest_file: int | None = None,
) -> Ended:
    """Run a script (its file name) or module ("-m", its name) with options, and wait for its end.

    kill: (seconds, signal) for its process group.  fault: called in the child before the command.  largest_file: bytes
    that a file may have, as on a full disk.
    """
    (out, out_end), (err, err_end), (mark, mark_end) = os.pipe(), os.pipe(), os.pipe()
    for end in (out_end, err_end):
        fcntl.fcntl(end, _F_SETPIPE_SZ, _PIPE)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run(words, out_end, err_end, fault, largest_file, mark_end)
    for end in (out_end, err_end, mark_end):
        os.close(end)
    status, sent = _wait(child, seconds, kill)
    output, errors, marked = (_read(end) for end in (out, err, mark))
    return Ended(status, output, errors, sent or marked != "")


def _run(words: Sequence[str], out: int, err: int, fault: Fault | None, largest: int | None, mark: int) -> None:
    def struck() -> None:
        os.write(mark, b"struck")

    status = 1
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        if largest is not None:
            _limit_files(largest, struck)
        if fault is not None:
            fault(struck)
        is_module = words[0] == "-m"
        sys.argv = list(words[1:] if is_module else words)
        if is_module:
            sys.modules.pop(words[1], None)  # loaded by `prepare_to_fork`, of which runpy would warn
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _limit_files(largest: int, struck: Callable[[], None]) -> None:
    """No file may grow beyond `largest` bytes; the first one that would calls `struck`."""

    def reached(number: int, frame: object) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it; the write fails with EFBIG either way
        struck()

    signal.signal(signal.SIGXFSZ, reached)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def _wait(child: int, seconds: float, kill: tuple[float, int] | None) -> tuple[int | None, bool]:
    """The exit status, and whether `kill` was sent; what the command has left in its process group is ended with it."""
    begun = time.monotonic()
    sent, late = False, False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        passed = time.monotonic() - begun
        if kill is not None and not sent and passed >= kill[0]:
            sent = True
            _signal(child, kill[1])
        if passed > seconds:
            late = True
            _signal(child, signal.SIGKILL)
        left = 0.01 if kill is None or sent else kill[0] - passed  # a short command is over within one look at it
        time.sleep(min(max(left, 0.0), 0.01))
    _signal(child, signal.SIGKILL)
    return None if late else os.waitstatus_to_exitcode(status), sent


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # it leads no group yet, or is gone
        with suppress(ProcessLookupError):
            os.kill(group, number)


def _read(end: int) -> str:
    os.set_blocking(end, False)
    with os.fdopen(end, "rb") as file:
        return (file.read() or b"").decode(errors="replace")
