"""One thread that answers, and those who wait for it in a row: a model answers one question at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from datasets.errors import InputError, WriteError
from serving.server_disk import told

log = logging.getLogger(__name__)
Event = dict[str, Any]


class QueueFullError(InputError):
    """So many wait that the next is asked to come back."""


class Left(Exception):
    """Raised within a job whose client has left."""


class Job:
    """One piece of work and the events that tell of it; the last one is {"event": "end"}.

    work: is called in the queue's thread; it calls `post` and, as often as it can stop, `check`.
    owner: whose job it is.  Made in the event loop that reads `events`.
    """

    def __init__(self, owner: str, work: Callable[[Job], None]) -> None:
        self.owner = owner
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._left = threading.Event()

    def post(self, event: str, **values: Any) -> None:
        """Tell of something, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, {"event": event, **values})
        except RuntimeError:
            self._left.set()  # the loop is closed: the server ends

    def leave(self) -> None:
        """Whoever asked is gone: the work is to stop at the next `check`."""
        self._left.set()

    def check(self) -> None:
        """Raise Left where whoever asked is gone."""
        if self._left.is_set():
            raise Left

    def run(self) -> None:
        """Do the work and end the events, whatever happens."""
        try:
            self.check()
            self.post("started")
            self._work(self)
        except Left:
            log.info("a question was left before its answer was whole")
        except WriteError as error:
            self.post("error", message=told(error))
        except InputError as error:
            self.post("error", message=str(error))
        except Exception:
            log.exception("a question could not be answered")
            self.post("error", message="the model could not answer this; the server's log says why")
        finally:
            self.post("end")


class WorkQueue:
    """Jobs in the order of their arrival.  Each that waits is told its place: how many come before it."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="answering", daemon=True)
        self._thread.start()

    def check_room(self, owner: str) -> None:
        """Raise QueueFullError where the row, or an owner's share of it, is full."""
        with self._changed:
            if self._closed or len(self._waiting) >= self._most:
                raise QueueFullError(f"{len(self._waiting)} questions wait already; ask again in a minute")
            if sum(other.owner == owner for other in self._waiting) >= self._most_each:
                raise QueueFullError(f"{self._most_each} of your questions wait already; let one be answered first")

    def submit(self, job: Job) -> None:
        """Put a job at the end of the row; raises QueueFullError as `check_room`."""
        with self._changed:
            self.check_room(job.owner)
            self._waiting.append(job)
            job.post("queued", before=len(self._waiting) - 1 + (self._running is not None))
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Take a job out of the row, or have it stop where it runs."""
        job.leave()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._tell_places()

    def leave_all(self, owner: str) -> None:
        """The same for all jobs of an owner."""
        with self._changed:
            jobs = [job for job in (*self._waiting, self._running) if job and job.owner == owner]
        for job in jobs:
            self.leave(job)

    def close(self) -> None:
        """Take no more jobs, and stop the one that runs at its next `check`."""
        with self._changed:
            self._closed = True
            for job in (*self._waiting, self._running):
                if job:
                    job.leave()
            self._waiting.clear()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
                self._tell_places()
            job.run()
            with self._changed:
                self._running = None

    def _tell_places(self) -> None:
        for place, job in enumerate(self._waiting):
            job.post("queued", before=place + (self._running is not None))
