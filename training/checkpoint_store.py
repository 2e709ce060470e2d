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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.errors import CheckpointError
from models.checkpoints.checksums import sha256_of_files
from models.checkpoints.run_folder import (
    MANIFEST,
    checkpoints_of,
    find_problem,
    latest_complete,
    resolve_model_folder,
    step_folders,
    step_of,
)
from training import distributed
from training.distributed import Ranks

__all__ = [
    "PartialCheckpoint",
    "delete_all",
    "find_checkpoint",
    "find_problem",
    "has_checkpoints",
    "latest_complete",
    "load_rank_state",
    "read_description",
    "resolve_model_folder",
    "saved_ranks",
    "step_of",
    "together",
    "write_checkpoint",
]

_NOT_WRITTEN = r"PytorchStreamWriter|unexpected pos|file write failed"  # what torch says of a full disk


@dataclass(frozen=True)
class PartialCheckpoint:
    """A checkpoint that is being written: one rank prepares it, every rank writes its part, the first one finishes.

    keep: how many of the newest checkpoints stay; 0 for all.
    """

    run_dir: Path
    step: int
    ranks: Ranks
    keep: int

    @property
    def final(self) -> Path:
        """Its folder once it is whole."""
        return checkpoints_of(self.run_dir) / f"step_{self.step:06d}"

    @property
    def folder(self) -> Path:
        """Its folder until then."""
        return self.final.with_name(f".partial_{self.final.name}")

    def prepare(self) -> None:
        """Make the folder, and clear away what a process that died has left; for the first rank."""
        for leftover in [*self.final.parent.glob(".partial_*"), *self.final.parent.glob(".deleted_*")]:
            shutil.rmtree(leftover)
        (self.folder / "model").mkdir(parents=True)
        (self.folder / "training").mkdir()

    def write_own_part(
        self, save_model: Callable[[Path], Any], rank_state: dict[str, Any], description: dict[str, Any]
    ) -> None:
        """This rank's state; by the first rank the model and the description too.

        Raises CheckpointError where the disk has no room for the state.
        """
        if self.ranks.is_main:
            (self.folder / "training" / "description.json").write_text(
                json.dumps(description, indent=1, sort_keys=True)
            )
            save_model(self.folder / "model")
        own = self.part_of(self.ranks.rank)
        unfinished = own.with_suffix(".unfinished")
        try:
            torch.save(rank_state, unfinished)
        except RuntimeError as error:
            if not re.search(_NOT_WRITTEN, str(error)):
                raise
            raise CheckpointError(f"{own}: cannot be written ({str(error).splitlines()[0]}); make room") from error
        os.replace(unfinished, own)  # as the last act: the file says that this rank is done

    def part_of(self, rank: int) -> Path:
        """The file of a rank's state."""
        return self.folder / "training" / _rank_file(rank)

    def finish(self) -> None:
        """Make the checkpoint whole, and delete those that are to go; for the first rank, after all have written."""
        _write_manifest(self.folder, self.step)
        # checkpoints from here on are of a history that was left by resuming from an earlier step
        for folder in step_folders(self.run_dir):
            if step_of(folder) >= self.step:
                _delete(folder)
        os.replace(self.folder, self.final)
        _flush(self.final.parent)
        for old in step_folders(self.run_dir)[self.keep :] if self.keep else ():
            _delete(old)


def write_checkpoint(
    run_dir: Path,
    step: int,
    ranks: Ranks,
    *,
    save_model: Callable[[Path], Any],
    rank_state: dict[str, Any],
    description: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep` (0 keeps all); every rank calls this.

    save_model(folder) is called on rank 0.  rank_state is this rank's own, of types that
    `torch.load(weights_only=True)` reads.  Raises on every rank, leaving the older checkpoints as they are, if one rank
    cannot write.
    """
    partial = PartialCheckpoint(run_dir, step, ranks, keep)
    together(partial.prepare if ranks.is_main else None)
    together(lambda: partial.write_own_part(save_model, rank_state, description))
    together(partial.finish if ranks.is_main else None)
    return partial.final


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
    return bool(step_folders(Path(run_dir)))


def delete_all(run_dir: str | Path) -> None:
    """Delete every checkpoint of a run."""
    for folder in step_folders(Path(run_dir)):
        _delete(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """The settings that a resumed run is compared with."""
    return json.loads((folder / "training" / "description.json").read_text())


def saved_ranks(folder: Path) -> int:
    """How many ranks wrote a checkpoint."""
    return len(list((folder / "training").glob("rank_*.pt")))


def load_rank_state(folder: Path, rank: int, mapped: bool = False) -> dict[str, Any]:
    """One rank's training state, tensors on the CPU; nothing but tensors and plain data is unpickled.

    mapped: a tensor's elements are read from the file when they are used.
    """
    return torch.load(folder / "training" / _rank_file(rank), map_location="cpu", weights_only=True, mmap=mapped)


def _rank_file(rank: int) -> str:
    return f"rank_{rank:03d}.pt"


def together(action: Callable[[], None] | None) -> None:
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
