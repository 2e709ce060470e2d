"""What the routes work with, and whose request it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, HTTPException, Request

from serving.answerer import Answerer
from serving.limits import Limits
from serving.sessions import OpenedVolume, Session, Sessions
from serving.volume_files import VolumeFile
from serving.work_queue import WorkQueue


@dataclass
class Service:
    """One server's parts.  readers: one thread that reads volumes.  opened: those of the served folder, by name."""

    answerer: Answerer
    queue: WorkQueue
    sessions: Sessions
    readers: ThreadPoolExecutor
    root: Path
    checkpoint: str
    served: dict[str, Path]
    array_axes: str | None
    limits: Limits
    cookie: str
    opened: dict[str, VolumeFile] = field(default_factory=dict)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    return cast(Service, request.app.state.service)


def session_of(request: Request, service: Annotated[Service, Depends(service_of)]) -> Session:
    """The session of a request's cookie; 401 where there is none, or it has ended."""
    session = service.sessions.find(request.cookies.get(service.cookie))
    if session is None:
        raise HTTPException(401, "the session has ended; load the page again")
    return session


ServiceOf = Annotated[Service, Depends(service_of)]
SessionOf = Annotated[Session, Depends(session_of)]


def volume_of(volume: str, session: SessionOf) -> OpenedVolume:
    """The volume of a request's path, of the request's own session."""
    return session.volume(volume)


VolumeOf = Annotated[OpenedVolume, Depends(volume_of)]
