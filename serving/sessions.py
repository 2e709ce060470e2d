"""What belongs to one user of the page: volumes, what was asked about them, masks; and the folder that holds it."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.conversation import Turn
from datasets.errors import InputError
from datasets.volume.loading import read_mask
from models.answering.answer import Mask
from serving.limits import Limits
from serving.server_disk import writing
from serving.volume_files import VolumeFile


@dataclass(frozen=True)
class StoredMask:
    """A mask on disk.  path: NIfTI on the grid of the CT's file.  shown: the same on the grid of the viewer's copy.
    centre: a voxel of the viewer's grid inside of the mask."""

    id: str
    name: str
    millilitres: float
    centre: tuple[int, int, int] | None
    path: Path
    shown: Path

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        centre = None if self.centre is None else list(self.centre)
        return {"id": self.id, "name": self.name, "millilitres": round(self.millilitres, 2), "centre": centre}


@dataclass(frozen=True)
class Asked:
    """A question with its answer; masks: their ids.  kind: of question, as `serving.questions` has them."""

    kind: str
    question: str
    answer: str
    confidences: dict[str, float]
    masks: list[str]
    seconds: float
    notes: list[str]

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {**vars(self)}


@dataclass
class OpenedVolume:
    """A volume of a session; `files` is removed with it, None for one of the served folder."""

    id: str
    file: VolumeFile
    folder: Path
    files: Path | None = None
    asked: list[Asked] = field(default_factory=list)
    masks: dict[str, StoredMask] = field(default_factory=dict)  # by id; one a name

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "id": self.id,
            **self.file.described(),
            "notes": self.notes,
            "asked": [asked.described() for asked in self.asked],
            "masks": [mask.described() for mask in self.masks.values()],
        }

    @property
    def notes(self) -> list[str]:
        """What the user should know before asking."""
        return [self.file.note] if self.file.note else []

    def history(self) -> tuple[Turn, ...]:
        """Its questions in words, for one that is asked after them."""
        return tuple(Turn(asked.question, asked.answer) for asked in self.asked if asked.kind != "organs")

    def keep(self, mask: StoredMask) -> None:
        """Keep a mask in place of an earlier one of its name."""
        for other in [other for other in self.masks.values() if other.name == mask.name]:
            del self.masks[other.id]
            for path in {other.path, other.shown}:
                path.unlink(missing_ok=True)
        self.masks[mask.id] = mask

    def read(self, mask: StoredMask) -> Mask:
        """A mask of it, from disk, on the grid of the CT's file."""
        return Mask(mask.name, read_mask(mask.path, self.file.geometry)[0], self.file.geometry)


class Session:
    """A user; `folder` is the user's alone."""

    def __init__(self, key: str, folder: Path) -> None:
        self.key = key
        self.folder = folder
        self.volumes: dict[str, OpenedVolume] = {}
        self.seen = time.monotonic()
        self.busy = 0  # requests that are under way

    def volume(self, key: str) -> OpenedVolume:
        """One of its volumes; raises InputError where it has no such."""
        if key not in self.volumes:
            raise InputError("this session has no such volume; it may have ended: load the page again")
        return self.volumes[key]

    def used_bytes(self) -> int:
        """Of all its files."""
        used = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):  # removed meanwhile
                    used += (Path(folder) / name).stat().st_size
        return used

    def remove(self, key: str) -> None:
        """Forget a volume and its files; raises InputError where it has no such."""
        volume = self.volume(key)
        del self.volumes[key]
        shutil.rmtree(volume.folder, ignore_errors=True)
        shared = any(other.files == volume.files for other in self.volumes.values())  # files of one upload
        if volume.files and not shared:
            shutil.rmtree(volume.files, ignore_errors=True)


class Sessions:
    """All users; `ended` is called with the key of each that goes."""

    def __init__(self, root: Path, limits: Limits, ended: Callable[[str], None] = lambda key: None) -> None:
        self._root, self._limits, self._ended = root, limits, ended
        self._held: dict[str, Session] = {}
        self._lock = threading.Lock()

    def find(self, key: str | None) -> Session | None:
        """The session of a key, which counts as seen; None where there is none."""
        with self._lock:
            session = self._held.get(key or "")
            if session:
                session.seen = time.monotonic()
            return session

    def begin(self) -> Session:
        """A new session; raises InputError where there are too many, WriteError where it can have no folder."""
        self.end_idle()
        with self._lock:
            if len(self._held) >= self._limits.sessions:
                raise InputError(f"{len(self._held)} sessions are open, no more are taken; try again later")
            key = secrets.token_urlsafe(32)
            folder = self._root / secrets.token_hex(8)
            with writing(folder):
                folder.mkdir(mode=0o700)
            self._held[key] = session = Session(key, folder)
            return session

    def end(self, key: str) -> None:
        """End a session, if it is there: its questions and its files go."""
        with self._lock:
            session = self._held.pop(key, None)
        if session:
            self._ended(key)
            shutil.rmtree(session.folder, ignore_errors=True)

    def end_idle(self) -> None:
        """End those that nobody has used for the limit's time."""
        oldest = time.monotonic() - self._limits.session_seconds
        with self._lock:
            idle = [key for key, session in self._held.items() if session.seen < oldest and not session.busy]
        for key in idle:
            self.end(key)
