"""A model folder whose files appear when all of them are written: a full disk leaves what was there before."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from datasets.errors import CheckpointError

_OF_AN_EARLIER_SAVE = ("model*.safetensors", "model.safetensors.index.json")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write to; when the block ends without error, its files take their places.

    Weights of an earlier save go then, for a folder with shards of two saves would be read as the wrong one.

    Raises CheckpointError where `folder` is a file, or cannot be written.
    """
    part = folder / f".{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        yield part
        written = sorted(part.iterdir(), key=lambda path: path.name == "config.json")  # that one last
        if any(path.suffix == ".safetensors" and path.name.startswith("model") for path in written):
            for old in {path for pattern in _OF_AN_EARLIER_SAVE for path in folder.glob(pattern)}:
                old.unlink()
        for path in written:
            target = folder / path.name
            if path.is_dir() and target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(f"{folder}: cannot be written ({reason}); make room or give another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_of_the_disk(error: Exception) -> bool:
    if isinstance(error, (OSError, SafetensorError)):
        return True
    return type(error) is Exception and re.search(r"\(os error \d+\)", str(error)) is not None  # by tokenizers, in Rust
