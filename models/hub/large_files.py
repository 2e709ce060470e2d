"""Weight files from the hub, one at a time, each going on from where it was broken off.

huggingface_hub alone loses what it has of a file when its process is ended: it writes to a name that no later process
looks for.  Here a part stays in the cache as `blobs/<sha256>.incomplete`, grows by requests for the rest of the file,
and becomes `blobs/<sha256>`, where huggingface_hub finds it, once its hash is the one that the hub names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils.sha import sha_fileobj

from models.hub.selection import HubError


@dataclass(frozen=True)
class LargeFile:
    """A file that the hub stores by its hash: path in the repository, bytes, SHA-256 in hexadecimal digits."""

    path: str
    size: int
    sha256: str


def download_large_files(repository: str, commit: str, files: Sequence[LargeFile]) -> None:
    """Put `files` into huggingface_hub's cache, those that it lacks; parts of an earlier call are made use of.

    Processes may call this at once: one downloads a file, the others wait for it.

    Raises HubError where the disk is too small or a file is not what the hub says, and whatever the network raises.
    """
    cache = Path(constants.HF_HUB_CACHE)
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    blobs, locks = cache / folder / "blobs", cache / ".locks" / folder
    blobs.mkdir(parents=True, exist_ok=True)
    locks.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not (blobs / file.sha256).exists()]
    _check_space(repository, blobs, missing)
    for file in missing:
        with WeakFileLock(locks / f"{file.sha256}.lock"):
            if not (blobs / file.sha256).exists():  # another process may have been faster
                _download(repository, commit, file, blobs / file.sha256)


def _download(repository: str, commit: str, file: LargeFile, blob: Path) -> None:
    part = _part(blob)
    with part.open("ab") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
            stream.seek(0)
        http_get(
            hf_hub_url(repository, file.path, revision=commit),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.path,
        )
    with part.open("rb") as stream:
        found = sha_fileobj(stream).hex()
    if found != file.sha256:
        part.unlink()
        raise HubError(
            f"{repository}: {file.path} was damaged on its way (SHA-256 {found[:12]}..., the hub names "
            f"{file.sha256[:12]}...) and deleted; start again"
        )
    os.replace(part, blob)


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _check_space(repository: str, blobs: Path, files: Sequence[LargeFile]) -> None:
    parts = [_part(blobs / file.sha256) for file in files]
    needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(blobs).free
    if needed > free:
        raise HubError(
            f"{repository}: {needed / 1e9:.1f} GB are to be downloaded and {free / 1e9:.1f} GB are free at "
            f"{constants.HF_HUB_CACHE}; make room, or set HF_HOME to a folder on another disk"
        )
