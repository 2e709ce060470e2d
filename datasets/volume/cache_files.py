"""Files of the cache: whole or absent, and with a checksum, so that a damaged one is made again in place of used."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from isal import isal_zlib
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)
_full: set[Path] = set()  # folders that have been said to be full


def save_cached(path: Path, tensors: Mapping[str, torch.Tensor], details: str) -> None:
    """Write contiguous tensors and a text to a file of the cache, whole or not at all, however many do it at once.

    Without room the run goes on without the file, and says so once.
    """
    temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"details": details, "checksum": str(_checksum(tensors, details))}
        save_file(dict(tensors), temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        cache = path.parent.parent
        if cache not in _full:
            _full.add(cache)
            log.warning("%s: the cache cannot be written (%s); the run goes on without", cache, error)


def read_cached(path: Path) -> tuple[dict[str, torch.Tensor], str] | None:
    """Tensors and text of a file of the cache; None where it is not there, or not as it was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        log.warning("%s: a damaged file of the cache (%s); it is made again", path, error)
        return None
    details = metadata.get("details", "")
    if "checksum" not in metadata:
        return None  # of before checksums
    if metadata["checksum"] != str(_checksum(tensors, details)):
        log.warning("%s: a damaged file of the cache (its checksum differs); it is made again", path)
        return None
    return tensors, details


def cached_details(path: Path) -> str | None:
    """The text of a file of the cache, without its tensors, and so unchecked; None where it cannot be had."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("details")
    except (OSError, SafetensorError, ValueError):
        return None


def _checksum(tensors: Mapping[str, torch.Tensor], details: str) -> int:
    """CRC-32 (zlib's) of all that the file holds: a guard against damage, not against intent."""
    checksum = isal_zlib.crc32(details.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = isal_zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = isal_zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, checksum)
    return checksum
