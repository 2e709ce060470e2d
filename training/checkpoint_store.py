"""Checkpoints on disk: complete or absent, whenever the process dies.

    run_dir/checkpoints/step_000100/
        manifest.json       every file with its size and its SHA-256
        model/              the model in the project's final format
        training/           description.json and one rank_NNN.pt a rank: optimiser, random state, exact weights

A checkpoint is written under a name that starts with a dot, flushed to disk, and renamed as the last act.  A folder
without a manifest, or with a file that is not as its manifest says, is passed over and never loaded.  Verifying reads
every file once more, at some 1.8 GB a second and core; the system then has them in memory for loading.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datasets.errors import CheckpointError
from models.hub.download import fetched
from training import distributed
from training.checksums import sha256_of_files
from training.distributed import Ranks

MANIFEST = "manifest.json"
_STEP_FOLDER = re.compile(r"step_(\d{6,})")


def write_checkpoint(
    run_dir: Path,
    step: int,
    ranks: Ranks,
    *,
    save_model: Callable[[Path], None],
    rank_state: dict[str, Any],
    description: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep` (0 keeps all); every rank calls this.

    save_model(folder) is called on rank 0.  rank_state is this rank's own, of types that
    `torch.load(weights_only=True)` reads.  Raises on every rank, leaving the older checkpoints as they are, if one rank
    cannot write.
    """
    final = _checkpoints(run_dir) / f"step_{step:06d}"
    partial = final.with_name(f".partial_{final.name}")

    def prepare() -> None:
        for leftover in [*_checkpoints(run_dir).glob(".partial_*"), *_checkpoints(run_dir).glob(".deleted_*")]:
            shutil.rmtree(leftover)
        (partial / "model").mkdir(parents=True)
        (partial / "training").mkdir()

    def write_own_part() -> None:
        torch.save(rank_state, partial / "training" / _rank_file(ranks.rank))
        if ranks.is_main:
            (partial / "training" / "description.json").write_text(json.dumps(description, indent=1, sort_keys=True))
            save_model(partial / "model")

    def finish() -> None:
        _write_manifest(partial, step)
        # checkpoints from here on are of a history that was left by resuming from an earlier step
        for folder in _step_folders(run_dir):
            if step_of(folder) >= step:
                _delete(folder)
        os.replace(partial, final)
        _flush(final.parent)
        for old in _step_folders(run_dir)[keep:] if keep else ():
            _delete(old)

    _together(prepare if ranks.is_main else None)
    _together(write_own_part)
    _together(finish if ranks.is_main else None)
    return final


def latest_complete(run_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run that is whole, or None; a broken one is named on stderr and passed over."""
    for folder in _step_folders(Path(run_dir)):
        problem = find_problem(folder)
        if problem is None:
            return folder
        print(f"passing over checkpoint {folder}: {problem}", file=sys.stderr)
    return None


def find_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None where every file is as the manifest says, to the bit."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
    except FileNotFoundError:
        return f"there is no {MANIFEST}, so it was not written to its end"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes in place of {expected['size']}"
    hashed = [name for name, expected in files.items() if expected["sha256"]]  # earlier versions left large files out
    for name, found in zip(hashed, sha256_of_files([folder / name for name in hashed]), strict=True):
        if found != files[name]["sha256"]:
            return f"{name} has changed since it was written"
    return None


def step_of(folder: Path) -> int:
    """The number of optimiser steps done when the checkpoint was written."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(f"{folder}: a checkpoint folder is named step_ and the number of its step")
    return int(match.group(1))


def find_checkpoint(run_dir: str | Path, resume: str) -> Path | None:
    """The checkpoint that `--resume` means: None for "", or for "auto" in a run that has none yet.

    Raises CheckpointError for a named folder that is absent or not whole.
    """
    if resume in ("", "auto"):
        return latest_complete(run_dir) if resume else None
    folder = Path(resume)
    if (folder / "checkpoints").is_dir():
        found = latest_complete(folder)
        if found is None:
            raise CheckpointError(f"--resume {resume}: the run has no complete checkpoint")
        return found
    if problem := find_problem(folder):
        raise CheckpointError(f"--resume {resume}: {problem}")
    step_of(folder)
    return folder


def has_checkpoints(run_dir: str | Path) -> bool:
    """Whether a run has any checkpoint, whole or not."""
    return bool(_step_folders(Path(run_dir)))


def delete_all(run_dir: str | Path) -> None:
    """Delete every checkpoint of a run."""
    for folder in _step_folders(Path(run_dir)):
        _delete(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """The settings that a resumed run is compared with."""
    return json.loads((folder / "training" / "description.json").read_text())


def load_rank_state(folder: Path, rank: int) -> dict[str, Any]:
    """One rank's training state, tensors on the CPU; nothing but tensors and plain data is unpickled."""
    return torch.load(folder / "training" / _rank_file(rank), map_location="cpu", weights_only=True)


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


def _checkpoints(run_dir: str | Path) -> Path:
    return Path(run_dir) / "checkpoints"


def _step_folders(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    folders = [path for path in _checkpoints(run_dir).glob("step_*") if _STEP_FOLDER.fullmatch(path.name)]
    return sorted(folders, key=step_of, reverse=True)


def _rank_file(rank: int) -> str:
    return f"rank_{rank:03d}.pt"


def _together(action: Callable[[], None] | None) -> None:
    """Run `action` where there is one, wait for the other ranks, and raise on all of them if it failed on any."""
    error = None
    if action is not None:
        try:
            action()
        except Exception as problem:
            error = problem
    distributed.raise_together(error)


def _write_manifest(folder: Path, step: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, sha256_of_files(paths), strict=True)
    }
    for path in paths:
        _flush(path)
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "step": step, "files": files}, indent=1))
    _flush(folder / MANIFEST)
    for directory in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        _flush(directory)


def _delete(folder: Path) -> None:
    """Rename first: a kill in mid-deletion then leaves no half folder under a checkpoint's name."""
    doomed = folder.with_name(f".deleted_{folder.name}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
