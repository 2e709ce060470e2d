"""A model by path or hub name: the files that are wanted, from the cache or from the hub.

HF_ENDPOINT (another server), HF_HOME (the cache), HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
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

from models.hub.large_files import HubError, LargeFile, download_large_files
from models.hub.names import HubName, hub_name, not_found

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe")  # settings and tokenizers


@dataclass(frozen=True)
class Wanted:
    """Patterns of a repository's files: `weights` are ways to store them, of which the first that is there is taken.

    single: the last way, of which a repository must have one file; one of several is chosen by naming it.
    """

    weights: tuple[tuple[str, ...], ...]
    single: tuple[str, ...] = ()
    small: tuple[str, ...] = _SMALL


# A CTInstruct folder, or a language model's
MODEL = Wanted((("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin")))
# The transformer may lie in a folder of its own; layers after it do.
TEXT_ENCODER = Wanted(
    (("model*.safetensors", "0_*/model*.safetensors"), ("pytorch_model*.bin", "0_*/pytorch_model*.bin")),
    small=(*_SMALL, "*_Dense/*"),
)
# What pretraining leaves behind, or a released vision file
VISION = Wanted((("vision.safetensors", "objectives.safetensors"),), single=("*.pt", "*.pth"), small=("config.json",))


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
    api, ways = HfApi(), _ways(name, wanted)
    try:
        info = api.model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (RevisionNotFoundError, HFValidationError) as error:
        raise HubError(explain(name, error)) from error
    except Exception as error:  # whatever huggingface_hub and its network client raise
        return _chosen(_cached(name, ways, wanted, error), name, wanted)
    files = info.siblings or []
    way = next((way for way in ways if _matching((file.rfilename for file in files), way)), None)
    if way is None:
        listed = ", ".join(sorted(file.rfilename for file in files)[:6]) or "nothing"
        raise HubError(f"{name}: has no {' or '.join(way[0] for way in ways)}; it holds {listed}")
    _check_single((file.rfilename for file in files), way, name, wanted)
    large = [
        LargeFile(file.rfilename, file.lfs.size, file.lfs.sha256)
        for file in files
        if file.lfs is not None and _matching([file.rfilename], [*wanted.small, *way])
    ]
    try:
        # huggingface_hub says of files larger than this that they need its own protocol
        small_enough = [file for file in large if file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE]
        download_large_files(name.repository, info.sha or "main", small_enough)
        folder = snapshot_download(name.repository, revision=name.revision, allow_patterns=[*wanted.small, *way])
    except Exception as error:
        raise HubError(explain(name, error)) from error
    return _chosen(Path(folder), name, wanted)


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


def _ways(name: HubName, wanted: Wanted) -> list[tuple[str, ...]]:
    if name.file:
        return [(name.file,)]
    return [*wanted.weights, *([wanted.single] if wanted.single else [])]


def _cached(name: HubName, ways: Iterable[tuple[str, ...]], wanted: Wanted, error: Exception) -> Path:
    """The folder of an earlier download that is complete, as far as huggingface_hub can tell; else raise HubError."""
    for way in ways:
        try:
            folder = Path(
                snapshot_download(
                    name.repository,
                    revision=name.revision,
                    allow_patterns=[*wanted.small, *way],
                    local_files_only=True,
                )
            )
        except (OSError, ValueError):
            continue
        if _matching((path.relative_to(folder).as_posix() for path in folder.rglob("*")), way):
            if not isinstance(error, OfflineModeIsEnabled):
                logging.getLogger(__name__).warning("%s: the hub cannot be asked; an earlier download is used", name)
            return folder
    raise HubError(explain(name, error)) from error


def _chosen(folder: Path, name: HubName, wanted: Wanted) -> Path:
    """The folder, or the one file that is meant in it."""
    if name.file:
        return folder / name.file
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    if not wanted.single or any(_matching(paths, way) for way in wanted.weights):
        return folder
    _check_single(paths, wanted.single, name, wanted)
    return folder / _matching(paths, wanted.single)[0]


def _check_single(paths: Iterable[str], way: tuple[str, ...], name: HubName, wanted: Wanted) -> None:
    found = _matching(paths, way)
    if way == wanted.single and len(found) > 1:
        example = HubName(name.repository, name.revision or "main", found[0])
        raise HubError(f"{name}: holds {len(found)} files of weights; name one, for example {example}")


def _matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    patterns = list(patterns)
    return sorted(path for path in paths if any(fnmatch(path, pattern) for pattern in patterns))
