"""How every entry script ends: a clear line for wrong input, and no rank left waiting."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from datasets.errors import InputError
from training import distributed

# A file where a folder belongs or the reverse, a place that is not there or may not be written: the path says it all.
_PLACES = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
}  # fmt: skip
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # full, or broken: no fault of the program's


def run_script(main: Callable[[], Any]) -> NoReturn:
    """Run `main` and exit: 0; 2 for an InputError, an unusable path, a full disk, in one line; 130 for Ctrl-C; 1 else.

    One failing rank of several leaves at once, without a farewell to ranks that may wait for it in a collective: the
    launcher sees the exit status and ends the others.
    """
    threading.excepthook = _thread_failed
    status = _run(main)
    if status == 0:
        distributed.shutdown()
    leave(status)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A thread's full disk comes to the main thread as well (TensorBoard hands it on), which tells it in one line."""
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in _DISK):
        threading.__excepthook__(failed)


def leave(status: int) -> NoReturn:
    """End this process and its loading processes without taking the interpreter apart, unlike sys.exit.

    A process group that DeepSpeed still refers to while that happens aborts or stops the process now and then, after
    all the work is done (gloo, torch 2.14: "terminate called without an active exception").
    """
    _end_children()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
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
    except InputError as error:
        if not distributed.is_shared(error) or int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if _printing_works():
            traceback.print_exc()
        return 1  # who read the output has gone, as `head` does: nobody is left to be told
    except OSError as error:
        if error.errno in _DISK:
            where = error.filename or "a file of this run"
            print(f"error: {InputError(f'{where}: {error.strerror}; mend that and start again')}", file=sys.stderr)
            return 2
        if error.errno not in _PLACES or not error.filename:
            traceback.print_exc()
            return 1
        print(f"error: {InputError(f'{error.filename}: {error.strerror}; give another path')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _printing_works() -> bool:
    """Whether standard output has a reader; without one it is led to nowhere, so that the last flush does not fail."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    return True
