"""Routes of what can be taken home: masks, the report of a volume, the session."""

from __future__ import annotations

import asyncio
import errno
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from datasets.commands import DISK
from datasets.errors import InputError
from serving.findings_files import export_findings
from serving.mask_files import export_masks
from serving.safe_names import download_name
from serving.server_disk import writing
from serving.service import Service, ServiceOf, SessionOf, VolumeOf
from serving.session_report import report_html, session_archive
from serving.sessions import OpenedVolume, Session, StoredMask
from serving.volume_files import plain_message

router = APIRouter()
# a report that a browser opens from here runs nothing and asks nothing
_ATTACHED = {"content-security-policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"}
_NO_ROOM = {*DISK, errno.EROFS, errno.EACCES}  # the disk is full, broken or closed


@router.get("/volumes/{volume}/masks/{mask}.nii.gz")
async def mask_file(volume: VolumeOf, mask: str) -> FileResponse:
    """One mask as NIfTI on the grid of the CT's file."""
    stored = _stored(volume, mask)
    return FileResponse(
        stored.path, media_type="application/gzip", filename=f"{download_name(stored.name)}.nii.gz", headers=_ATTACHED
    )


@router.get("/volumes/{volume}/masks/{mask}/shown.nii.gz")
async def shown_mask(volume: VolumeOf, mask: str) -> FileResponse:
    """The same on the grid of the viewer's copy of the CT, which has fewer voxels of a huge one."""
    return FileResponse(_stored(volume, mask).shown, media_type="application/gzip", headers=_ATTACHED)


@router.get("/volumes/{volume}/masks")
async def masks(volume: VolumeOf, session: SessionOf, service: ServiceOf, file_format: str = "nifti") -> FileResponse:
    """All masks in one file."""
    return await _made(session, service, lambda folder: export_masks(volume, file_format, folder))


@router.get("/volumes/{volume}/findings")
async def findings(volume: VolumeOf, session: SessionOf, service: ServiceOf, file_format: str = "json") -> FileResponse:
    """Confidences and the masks' volumes, in codes."""
    return await _made(session, service, lambda folder: export_findings(volume, file_format, folder))


@router.get("/volumes/{volume}/report.html")
async def report(volume: VolumeOf, session: SessionOf, service: ServiceOf) -> FileResponse:
    """What was asked and answered, with a picture, as one HTML file."""

    def write(folder: Path) -> Path:
        path = folder / f"{download_name(volume.file.name)}_report.html"
        path.write_text(report_html(volume, service.checkpoint, service.array_axes), encoding="utf-8")
        return path

    return await _made(session, service, write)


@router.get("/session.zip")
async def session_zip(session: SessionOf, service: ServiceOf) -> FileResponse:
    """All questions and answers as JSON, with reports and masks."""
    return await _made(
        session,
        service,
        lambda folder: session_archive(session, service.checkpoint, folder / "session.zip", service.array_axes),
    )


def _stored(volume: OpenedVolume, mask: str) -> StoredMask:
    if mask not in volume.masks:
        raise InputError("this volume has no such mask; another of its name may have taken its place")
    return volume.masks[mask]


def _without_paths(error: InputError, folder: Path, session: Session) -> str:
    """The error's line with the user's names of files in place of the server's paths."""
    line = plain_message(error, folder, "the export")
    for volume in session.volumes.values():
        line = line.replace(str(volume.file.path), volume.file.name)
    return line


async def _made(session: Session, service: Service, write: Callable[[Path], Path]) -> FileResponse:
    """A file that is made for one request, and removed after it.

    Raises WriteError where the disk has no room for it, InputError where the session's files go meanwhile.
    """
    folder = session.folder / f"export_{secrets.token_hex(8)}"
    try:
        with writing(folder):
            folder.mkdir()
            path = await asyncio.get_running_loop().run_in_executor(service.readers, write, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, InputError):
            raise InputError(_without_paths(error, folder, session)) from error
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError("a file of this session went while this was made; load the page again") from error
        if isinstance(error.__cause__, OSError) and error.__cause__.errno not in _NO_ROOM:
            raise error.__cause__ from None  # as too many open files: a fault that the log has to show whole
        raise
    removal = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, filename=path.name, headers=_ATTACHED, background=removal)
