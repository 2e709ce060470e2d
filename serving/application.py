"""The web application: what is shared by its routes, and the file that the browser loads first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from datasets.errors import InputError, WriteError
from evaluation.report.interactive import VIEWER
from serving import export_routes, question_routes, volume_routes
from serving.access import Access
from serving.answerer import Answerer
from serving.limits import Limits
from serving.server_disk import told
from serving.service import Service
from serving.sessions import Sessions
from serving.uploads import UploadTooLarge
from serving.work_queue import QueueFullError, WorkQueue

STATIC = Path(__file__).resolve().parent / "static"
_SECONDS_BETWEEN_LOOKS = 20.0  # for sessions that nobody uses any more

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageSettings:
    """checkpoint: as it is shown.  served: name -> path of the CTs that every user may open.  array_axes: as
    `read_volume` takes them.  token, port: see `serving.access`; two servers on one machine need cookies of their own.
    """

    checkpoint: str
    served: dict[str, Path] = field(default_factory=dict)
    array_axes: str | None = None
    token: str | None = None
    port: int = 0
    limits: Limits = field(default_factory=Limits)


def build_application(answerer: Answerer, root: Path, settings: PageSettings) -> FastAPI:
    """The application around a model; users' files go below `root`."""
    queue = WorkQueue(settings.limits.waiting, settings.limits.waiting_each)
    service = Service(
        answerer=answerer,
        queue=queue,
        sessions=Sessions(root, settings.limits, ended=queue.leave_all),
        readers=ThreadPoolExecutor(1, thread_name_prefix="reading"),  # one volume at a time is in memory
        root=root,
        checkpoint=settings.checkpoint,
        served=settings.served,
        array_axes=settings.array_axes,
        limits=settings.limits,
        cookie=f"ctinstruct_session_{settings.port}",
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(_end_idle_sessions(service))
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        queue.close()
        service.readers.shutdown(wait=False, cancel_futures=True)

    # no pages of the interface's own: FastAPI's load scripts from elsewhere
    application = FastAPI(title="CTInstruct", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    application.state.service = service
    for routes in (volume_routes, question_routes, export_routes):
        application.include_router(routes.router, prefix="/api")
    application.mount("/static/viewer", StaticFiles(directory=VIEWER))
    application.mount("/static", StaticFiles(directory=STATIC))

    @application.get("/")
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    application.add_exception_handler(InputError, _refuse)
    application.add_exception_handler(WriteError, _tell_of_disk)
    application.add_exception_handler(RequestValidationError, _refuse_form)
    application.add_middleware(Access, token=settings.token, cookie=f"ctinstruct_token_{settings.port}")
    return application


async def _end_idle_sessions(service: Service) -> None:
    while True:
        await asyncio.sleep(min(_SECONDS_BETWEEN_LOOKS, service.limits.session_seconds))
        await asyncio.to_thread(service.sessions.end_idle)


async def _refuse(_: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, UploadTooLarge) else 429 if isinstance(error, QueueFullError) else 422
    return JSONResponse({"detail": str(error)}, status)


async def _tell_of_disk(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": told(cast(WriteError, error))}, 507)


async def _refuse_form(_: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)
