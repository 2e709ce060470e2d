"""Embeddings of volumes and patches: one safetensors file for all CTs of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from datasets.errors import InputError
from models.answering.interface import AnsweringCTInstruct


@dataclass(frozen=True, eq=False)
class Embeddings:
    """images: n paths.  volumes: (n, C).  patches: (m, C), those of all volumes; owners: (m,), whose each is."""

    images: list[str]
    volumes: np.ndarray
    patches: np.ndarray
    owners: np.ndarray


def embed_all(model: AnsweringCTInstruct, images: Sequence[str]) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the images that can be read, in their order; and of the others why not.

    Raises InputError where none can be read.
    """
    found, failed = {}, {}
    for image in tqdm(images, desc="embedding", unit="CT"):
        try:
            found[image] = model.embed(image)
        except InputError as error:
            failed[image] = str(error)
    if not found:
        raise InputError(f"none of {len(failed)} CTs could be read; the first: {next(iter(failed.values()), '')}")
    patches = [each.patches for each in found.values()]
    owners = np.repeat(np.arange(len(patches)), [len(each) for each in patches])
    volumes = np.stack([each.volume for each in found.values()])
    return Embeddings(list(found), volumes, np.concatenate(patches), owners), failed


def save_embeddings(embeddings: Embeddings, path: str | Path) -> Path:
    """Write `volumes`, `patches` and `owners`, with the paths as JSON in the metadata entry "images"."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"volumes": embeddings.volumes, "patches": embeddings.patches, "owners": embeddings.owners}
    draft = path.with_name(f"{path.name}.part")
    save_file(arrays, draft, metadata={"images": json.dumps(embeddings.images)})
    os.replace(draft, path)
    return path


def read_embeddings(path: str | Path) -> Embeddings:
    """What `save_embeddings` wrote; raises InputError where it is anything else."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = [file.get_tensor(name) for name in ("volumes", "patches", "owners")]
            return Embeddings(json.loads(file.metadata()["images"]), *arrays)
    except Exception as error:  # safetensors has an exception of its own, and a file may lack any part
        raise InputError(f"{path}: no file of embeddings; python -m evaluation.embed writes it") from error
