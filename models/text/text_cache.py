"""Text embeddings on disk, one small file a text, for any number of processes at once.

    folder/<fingerprint of the model>/<2 digits>/<SHA-256 of the text>     16 bytes of checksum, then float32 numbers

A file is written under another name and renamed, so it is whole or absent; where two processes write the same text the
last wins with the same numbers.  A file whose checksum does not fit, as after a full disk, counts as absent.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_CHECKSUM_BYTES = 16


class TextCache:
    """The embeddings of one model.

    folder: shared by all models.  fingerprint: says which model, so that no embedding is taken for another's.  width:
    numbers of an embedding.
    """

    def __init__(self, folder: str | Path, fingerprint: str, width: int) -> None:
        self.folder = Path(folder) / fingerprint
        self.width = width

    def get(self, text: str) -> Tensor | None:
        """(width,) float32, or None where the text has no sound entry."""
        try:
            content = self._path(text).read_bytes()
        except FileNotFoundError:
            return None
        checksum, numbers = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if len(numbers) != 4 * self.width or _checksum(numbers) != checksum:
            return None
        return torch.from_numpy(np.frombuffer(numbers, dtype="<f4").astype(np.float32))

    def put(self, text: str, embedding: Tensor) -> None:
        """Store an embedding (width,)."""
        path = self._path(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = embedding.detach().cpu().numpy().astype("<f4").tobytes()
        handle, partial = tempfile.mkstemp(prefix=".partial_", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_checksum(numbers) + numbers)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def _path(self, text: str) -> Path:
        key = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / key[:2] / key


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
