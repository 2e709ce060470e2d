"""How every entry script ends: a clear line for wrong input, and no rank left waiting."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from datasets.commands import DISK, complaint
from datasets.standard_output import finish_output, tell
from training import distributed


def run_script(main: Callable[[], Any]) -> NoReturn:
    """Run `main` and exit: 0; 2 for what `datasets.commands.complaint` has a line about; 130 for Ctrl-C; 1 else.

    One failing rank of several leaves at once, without a farewell to ranks that may wait for it in a collective: the
    launcher sees the exit status and ends the others.
    """
    threading.excepthook = _thread_failed
    status = _run(main)
    if status == 0:
        distributed.shutdown()
    leave(status)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A full disk is told in one line; not of TensorBoard's thread, which hands it on to the main thread."""
    error = failed.exc_value
    if not (isinstance(error, OSError) and error.errno in DISK):
        threading.__excepthook__(failed)
    elif not type(failed.thread).__module__.startswith("tensorboard."):
        name = failed.thread.name if failed.thread else "a thread"
        print(f"warning: {name} has stopped: {complaint(error)}", file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process and its loading processes without taking the interpreter apart, unlike sys.exit.

    A process group that DeepSpeed still refers to while that happens aborts or stops the process now and then, after
    all the work is done (gloo, torch 2.14: "terminate called without an active exception").
    """
    _end_children()
    logging.shutdown()
    finish_output()
    os._exit(status)


def _end_children() -> None:
    """End the loading processes that are still there: they ignore SIGTERM, so one that is stuck would stay for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch reports the death of its loading processes as an error
    for child in multiprocessing.active_children():
        child.kill()


def _run(main: Callable[[], Any]) -> int:
    """The exit status of `main`, after reporting what it raised."""
    try:
        main()
        print(end="", flush=True)  # later it would fail where nothing tells of it
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except Exception as error:
        line = complaint(error)
        if line is None:
            tell(traceback.format_exc().rstrip())
            return 1
        shared = distributed.is_shared(error)
        if not shared or int(os.environ.get("RANK", "0")) == 0:
            tell(f"error: {line}")
        if shared:  # the launcher ends all soon after the first, so the line comes before
            with suppress(Exception, KeyboardInterrupt):
                distributed.barrier()
        return 2
    return 0
