"""Embeddings of volumes and patches: one safetensors file for all CTs of a folder.

Each CT's is written by itself first, into a folder beside the file, so that several ranks can share the CTs and a run
that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from datasets.errors import InputError, WriteError
from datasets.whole_files import written_whole
from evaluation.embed.embedders import Embedder
from training import distributed
from training.distributed import wait_for_all


@dataclass(frozen=True, eq=False)
class Embeddings:
    """images: n paths.  volumes: (n, C).  patches: (m, C), those of all volumes; owners: (m,), whose each is.

    checkpoint: the model folder that made them, empty where it is not known.
    """

    images: list[str]
    volumes: np.ndarray
    patches: np.ndarray
    owners: np.ndarray
    checkpoint: str = ""


def refuse_folder(output: str | Path) -> None:
    """Raise InputError where a folder is in the place of the file of embeddings."""
    if Path(output).is_dir():
        raise InputError(f"{output}: is a folder; name the file that the embeddings go to")


def embed_all(
    embedder: Embedder, images: Sequence[str], output: str | Path, rank: int = 0, world_size: int = 1
) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the images that can be read, in their order; and of the others why not.

    Every rank embeds its share, and all get the result, which is the same for any number of ranks.  What an earlier,
    interrupted call for `output` has embedded with the same model is taken over.  Raises InputError where no image can
    be read, or `output` is a folder.
    """
    refuse_folder(output)
    parts = _parts_folder(output)
    parts.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    waiting = [image for image in images if not _part(parts, image, embedder.made_with).is_file()]
    distributed.barrier()  # every rank has looked before one writes
    for image in tqdm(waiting[rank::world_size], desc="embedding", unit="CT", disable=rank > 0):
        try:
            found = embedder.embed(image)
        except InputError as error:
            failed[image] = str(error)
            continue
        part = _part(parts, image, embedder.made_with)
        _save({"volume": found.volume, "patches": found.patches}, part)
    wait_for_all()
    reasons = {image: reason for one in distributed.all_gather_object(failed) for image, reason in one.items()}
    failed = {image: reasons[image] for image in images if image in reasons}
    kept = [image for image in images if image not in failed]
    if not kept:
        raise InputError(f"none of {len(failed)} CTs could be read; the first: {next(iter(failed.values()), '')}")
    every = [load_file(_part(parts, image, embedder.made_with)) for image in kept]
    patches = [each["patches"] for each in every]
    owners = np.repeat(np.arange(len(patches)), [len(each) for each in patches])
    volumes = np.stack([each["volume"] for each in every])
    checkpoint = str(embedder.made_with["checkpoint"]["folder"])
    return Embeddings(kept, volumes, np.concatenate(patches), owners, checkpoint), failed


def save_embeddings(embeddings: Embeddings, path: str | Path) -> Path:
    """Write `volumes`, `patches` and `owners`, with paths and checkpoint in the metadata; the parts are removed."""
    path = Path(path)
    arrays = {"volumes": embeddings.volumes, "patches": embeddings.patches, "owners": embeddings.owners}
    _save(arrays, path, {"images": json.dumps(embeddings.images), "checkpoint": embeddings.checkpoint})
    shutil.rmtree(_parts_folder(path), ignore_errors=True)
    return path


def _save(arrays: dict[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    with written_whole([path]) as (part,):
        try:
            save_file(arrays, part, metadata=metadata)
        except SafetensorError as error:  # of a full disk too, whose number is in its text alone
            raise WriteError(f"{path}: cannot be written ({error})") from error


def read_embeddings(path: str | Path) -> Embeddings:
    """What `save_embeddings` wrote; raises InputError where it is anything else."""
    try:
        with safe_open(path, framework="numpy") as file:
            volumes, patches, owners = (file.get_tensor(name) for name in ("volumes", "patches", "owners"))
            metadata = file.metadata()
            images, checkpoint = json.loads(metadata["images"]), metadata.get("checkpoint", "")
            return Embeddings(images, volumes, patches, owners, checkpoint)
    except Exception as error:  # safetensors has an exception of its own, and a file may lack any part
        raise InputError(f"{path}: no file of embeddings; python -m evaluation.embed writes it") from error


def _parts_folder(output: str | Path) -> Path:
    return Path(output).with_name(f"{Path(output).name}.parts")


def _part(folder: Path, image: str, made_with: dict[str, Any]) -> Path:
    """The file of one CT: another name for a changed file, or for another model."""
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (Path(image),) if path.exists()]
    key = json.dumps([os.path.abspath(image), state, made_with], sort_keys=True)
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
