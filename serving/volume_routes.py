"""Routes of sessions and volumes: begin, upload, open, show, close."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from datasets.errors import InputError, OneLineError, WriteError
from datasets.vocabulary import diagnosis_facts
from datasets.volume.overlay import WINDOWS
from serving.findings_files import findings_formats_of
from serving.foreign_files import check_references
from serving.mask_files import formats_of
from serving.server_disk import writing
from serving.service import Service, ServiceOf, SessionOf, VolumeOf
from serving.sessions import OpenedVolume, Session
from serving.uploads import UploadTooLarge, UploadWriter
from serving.volume_files import open_volume, plain_message, volumes_in

router = APIRouter()


@router.post("/session")
async def begin(request: Request, response: Response, service: ServiceOf) -> dict[str, Any]:
    """The session of this browser, with all that is in it, a new one where it has none; and what the server offers."""
    session = service.sessions.find(request.cookies.get(service.cookie)) or service.sessions.begin()
    response.set_cookie(service.cookie, session.key, httponly=True, samesite="lax")
    return {
        "checkpoint": service.checkpoint,
        "labels": await run_in_threadpool(service.answerer.model.labels),
        "label_sets": list(diagnosis_facts()),
        "windows": {name: [centre, width] for name, (centre, width) in WINDOWS.items()},
        "served": list(service.served),
        "most_bytes": service.limits.upload_bytes,
        "volumes": [_described(volume) for volume in session.volumes.values()],
    }


@router.delete("/session", status_code=204)
async def end(session: SessionOf, service: ServiceOf) -> None:
    """End the session: its files are removed."""
    await run_in_threadpool(service.sessions.end, session.key)


@router.post("/volumes")
async def upload(request: Request, session: SessionOf, service: ServiceOf) -> dict[str, Any]:
    """Take files as multipart/form-data, and open every CT among them.

    Gives the volumes, and a line for each that was refused; 422 where all were,
    507 and none of them where the server's disk is full.
    """
    files = session.folder / f"upload_{secrets.token_hex(8)}"
    session.busy += 1
    try:
        names, digest = await _receive(request, session, service, files)
        await run_in_threadpool(check_references, [files / name for name in names])
        opened, refused = await _open_all(files, names, digest, session, service)
        if not opened:
            raise InputError(refused[0])
    except BaseException:  # a client that leaves, too
        await asyncio.shield(run_in_threadpool(_forget, session, files))
        raise
    finally:
        session.busy -= 1
    return {"volumes": [_described(volume) for volume in opened], "refused": refused}


@router.post("/served")
async def open_served(body: dict[str, str], session: SessionOf, service: ServiceOf) -> dict[str, Any]:
    """Open the volume called body["name"] of the served folder; it is read once for all users."""
    name = body.get("name", "")
    if name not in service.served:
        raise InputError("the served folder has no such volume; choose one of the list")
    for volume in session.volumes.values():
        if volume.file.key == name:
            return _described(volume)

    def read() -> OpenedVolume:
        path = service.served[name]
        if name not in service.opened:
            image = service.root / f"served_{secrets.token_hex(8)}" / "image.nii"
            try:
                service.opened[name] = open_volume(path, name, name, image, service.array_axes)
            except WriteError:
                shutil.rmtree(image.parent, ignore_errors=True)
                raise
            except InputError as error:
                raise InputError(plain_message(error, path, name)) from error
        key = secrets.token_hex(8)
        return OpenedVolume(key, service.opened[name], session.folder / key)

    volume = await asyncio.get_running_loop().run_in_executor(service.readers, read)
    session.volumes[volume.id] = volume
    return _described(volume)


@router.get("/volumes/{volume}/image.nii")
async def image(volume: VolumeOf) -> FileResponse:
    """The voxels for the viewer, as NIfTI in their stored order."""
    return FileResponse(volume.file.image, media_type="application/octet-stream")


@router.delete("/volumes/{volume}", status_code=204)
async def close(volume: VolumeOf, session: SessionOf) -> None:
    """Forget a volume; what was uploaded for it is removed."""
    await run_in_threadpool(session.remove, volume.id)


async def _receive(request: Request, session: Session, service: Service, files: Path) -> tuple[dict[str, str], str]:
    """The files of a request, below a new folder: relative path -> the user's name; and their digest.

    Raises WriteError where the disk has no room for them.
    """
    room = service.limits.session_bytes - await run_in_threadpool(session.used_bytes)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > min(room, service.limits.upload_bytes) + 2**20:
        raise UploadTooLarge(
            f"the upload has {int(announced) / 1e9:.1f} GB; the server takes {service.limits.upload_bytes / 1e9:g} GB, "
            f"and this session has room for {max(room, 0) / 1e9:.1f} GB"
        )
    with writing(files):
        files.mkdir()
        writer = UploadWriter(request.headers.get("content-type", ""), files, service.limits, room)
        try:
            async for piece in request.stream():
                await run_in_threadpool(writer.write, piece)
            writer.finish()
        finally:
            writer.close()
    return writer.names, writer.digest


async def _open_all(
    files: Path, names: dict[str, str], digest: str, session: Session, service: Service
) -> tuple[list[OpenedVolume], list[str]]:
    """Every CT among uploaded files, and a line for each that cannot be read.  Raises WriteError of a full disk."""
    opened: list[OpenedVolume] = []
    refused: list[str] = []
    try:
        paths = await run_in_threadpool(volumes_in, files)
    except InputError as error:
        raise InputError(f"{next(iter(names.values()))}: {plain_message(error, files, 'the upload')}") from error
    for path in paths:
        relative = path.relative_to(files)
        name = _users_name(relative, names)
        key = secrets.token_hex(8)
        reading = (path, f"{digest}/{relative}", name, session.folder / key / "image.nii", service.array_axes)
        try:
            file = await asyncio.get_running_loop().run_in_executor(service.readers, open_volume, *reading)
        except OneLineError as error:
            shutil.rmtree(session.folder / key, ignore_errors=True)
            if isinstance(error, WriteError):
                raise  # the next would find no room either
            refused.append(plain_message(error, path, name))
            continue
        if service.sessions.find(session.key) is None:
            shutil.rmtree(session.folder, ignore_errors=True)
            raise InputError("the session has ended; load the page again")
        session.volumes[key] = OpenedVolume(key, file, session.folder / key, files)
        opened.append(session.volumes[key])
    return opened, refused


def _forget(session: Session, files: Path) -> None:
    """Remove an upload, and what was opened of it."""
    for volume in list(session.volumes.values()):
        if volume.files == files:
            with suppress(InputError):  # closed meanwhile
                session.remove(volume.id)
    shutil.rmtree(files, ignore_errors=True)


def _users_name(relative: Path, names: dict[str, str]) -> str:
    """What the user calls a volume: the name of its file, or of the folder that holds its slices."""
    if str(relative) in names:
        return names[str(relative)]
    inside = next((name for kept, name in names.items() if relative in Path(kept).parents), "")
    return "/".join(inside.replace("\\", "/").split("/")[: len(relative.parts)]) or "DICOM series"


def _described(volume: OpenedVolume) -> dict[str, Any]:
    return {**volume.described(), "formats": formats_of(volume), "findings_formats": findings_formats_of(volume)}
