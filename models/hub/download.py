"""A model by path or hub name: the files that are wanted, from the cache or from the hub.

HF_ENDPOINT (another server), HF_HOME (the cache), HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from models.hub.large_files import LargeFile, download_large_files
from models.hub.names import HubName, hub_name, not_found
from models.hub.selection import MODEL, HubError, Wanted, matching, select


def find_model(source: str | Path, wanted: Wanted = MODEL, bare: bool = False) -> Path:
    """A path of this machine as it is; for a hub name the folder of its download (or the file, if one was named).

    Args:
        source: a path, or a hub name as `hub_name` reads it.
        wanted: which files of a repository are downloaded.
        bare: a name may lack its owner.

    Raises:
        HubError: the path does not exist, or the name cannot be had; the message is one line.
    """
    if Path(source).exists():
        return Path(source)
    name = hub_name(source, bare)
    if name is None:
        raise HubError(not_found(source))
    return fetch(name, wanted)


def fetched(source: str | Path, wanted: Wanted = MODEL) -> Path:
    """As `find_model`, but for a path, which may be absent: whoever reads it says what it should have been."""
    name = hub_name(source)
    return fetch(name, wanted) if name else Path(source)


def fetch(name: HubName, wanted: Wanted = MODEL) -> Path:
    """Download what is wanted of a repository and not in the cache yet; a broken-off download goes on.

    Without a network, or offline, the cache alone is used.  Raises HubError.
    """
    try:
        info = HfApi().model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (RevisionNotFoundError, HFValidationError) as error:
        raise HubError(explain(name, error)) from error
    except Exception as error:  # whatever huggingface_hub and its network client raise
        return _cached(name, wanted, error)
    files = info.siblings or []
    selection = select([file.rfilename for file in files], name, wanted)
    large = [
        LargeFile(file.rfilename, file.lfs.size, file.lfs.sha256)
        for file in files
        if file.lfs is not None and matching([file.rfilename], selection.patterns)
    ]
    try:
        # huggingface_hub says of files larger than this that they need its own protocol
        small_enough = [file for file in large if file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE]
        download_large_files(name.repository, info.sha or "main", small_enough)
        folder = snapshot_download(name.repository, revision=name.revision, allow_patterns=list(selection.patterns))
    except Exception as error:
        raise HubError(explain(name, error)) from error
    return Path(folder) / selection.path


def explain(name: HubName, error: Exception) -> str:
    """One line about what went wrong with the hub, and what to do about it."""
    hub, repository = HfApi().endpoint, name.repository
    if isinstance(error, HubError):
        return str(error)
    if isinstance(error, GatedRepoError):
        return f"{name}: is gated; accept its terms at {hub}/{repository}, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        listed = f"{hub}/{repository}/tree/main lists branches and tags"
        return f"{name}: there is no revision {name.revision or 'main'}; {listed}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name}: neither a local path nor a model on {hub} that you may read; check the spelling, and log in with "
            "`hf auth login` if it is private"
        )
    if isinstance(error, HFValidationError):
        return f"{name}: is no hub name; it must be owner/name or owner/name@revision"
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{name}: HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} does not hold all its files; unset it for one "
            "run with a network, or give a local folder"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{name}: {hub} refuses access; log in with `hf auth login` or set HF_TOKEN ({reason})"
    return (
        f"{name}: {hub} cannot be reached or broke off; start again when it can, what has arrived is kept, or give a "
        f"local folder ({reason})"
    )


def _cached(name: HubName, wanted: Wanted, error: Exception) -> Path:
    """What an earlier download left, if that is complete as far as huggingface_hub can tell; else raise HubError."""

    def find(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(name.repository, revision=name.revision, allow_patterns=patterns, local_files_only=True)
        )

    try:
        folder = find([])  # asks for no file
        selection = select([path.relative_to(folder).as_posix() for path in folder.rglob("*")], name, wanted)
        find(list(selection.patterns))
    except (OSError, ValueError):
        raise HubError(explain(name, error)) from error
    if not isinstance(error, OfflineModeIsEnabled):
        logging.getLogger(__name__).warning("%s: the hub cannot be asked; an earlier download is used", name)
    return folder / selection.path
