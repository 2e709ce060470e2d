"""Which model is meant by the folder of a training run: its newest checkpoint that is whole.

`training.checkpoint_store` writes these folders, and says what is in them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from datasets.errors import CheckpointError, InputError
from datasets.json_text import parse_json
from models.checkpoints.checksums import sha256_of_files
from models.hub.download import fetched

MANIFEST = "manifest.json"
_told: set[str] = set()  # a start looks for the newest checkpoint several times
_STEP_FOLDER = re.compile(r"step_(\d{6,})")


def resolve_model_folder(path: str | Path) -> Path:
    """The model folder meant by a run folder (its newest complete checkpoint), a checkpoint, or a model folder itself.

    A hub name (`owner/name` or `owner/name@revision`) is downloaded.

    Raises CheckpointError where there is none.
    """
    path = fetched(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder; give a run folder, a checkpoint, a model folder or a hub name (owner/name, or "
            "owner/name@main where a folder called owner exists)"
        )
    if (path / "checkpoints").is_dir():
        checkpoint = latest_complete(path)
        if checkpoint is None:
            raise CheckpointError(f"{path}: the run has no complete checkpoint")
        return checkpoint / "model"
    if _STEP_FOLDER.fullmatch(path.name):
        if problem := find_problem(path):
            raise CheckpointError(f"{path}: {problem}")
        return path / "model"
    return path


def latest_complete(run_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run that is whole, or None; a broken one is named on stderr and passed over."""
    for folder in step_folders(Path(run_dir)):
        problem = find_problem(folder)
        if problem is None:
            return folder
        if (line := f"passing over checkpoint {folder}: {problem}") not in _told:
            _told.add(line)
            print(InputError(line), file=sys.stderr)
    return None


def find_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None where every file is as the manifest says, to the bit."""
    try:
        files = _listed_files(folder / MANIFEST)
    except FileNotFoundError:
        return f"there is no {MANIFEST}, so it was not written to its end"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, (size, _) in files.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
        except OSError:  # a name that is too long for any file
            return f"{MANIFEST} is damaged"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
    hashed = [name for name, (_, expected) in files.items() if expected]  # earlier versions left large files out
    for name, found in zip(hashed, sha256_of_files([folder / name for name in hashed]), strict=True):
        if found != files[name][1]:
            return f"{name} has changed since it was written"
    return None


def _listed_files(manifest: Path) -> dict[str, tuple[int, str | None]]:
    """Size and SHA-256 by name; an error of Python's own for each way in which it can be damaged."""
    entries = parse_json(manifest.read_text(encoding="utf-8"))["files"]
    listed = {name: (entry["size"], entry["sha256"]) for name, entry in entries.items()}
    if not listed:
        raise ValueError(f"{manifest}: names no files")
    return listed


def step_of(folder: Path) -> int:
    """The number of optimiser steps done when the checkpoint was written."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: a checkpoint folder is named step_ and the number of its step")
    return int(match.group(1))


def checkpoints_of(run_dir: str | Path) -> Path:
    """The folder of a run's checkpoints."""
    return Path(run_dir) / "checkpoints"


def step_folders(run_dir: Path) -> list[Path]:
    """Checkpoint folders, whole or not, newest first."""
    folders = [path for path in checkpoints_of(run_dir).glob("step_*") if _STEP_FOLDER.fullmatch(path.name)]
    return sorted(folders, key=step_of, reverse=True)
