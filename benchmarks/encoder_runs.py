"""Runs of the encoder scripts as child processes, and whether they are done; JSON files that are never half."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.errors import InputError
from models.checkpoints.run_folder import latest_complete, step_of

ROOT = Path(__file__).resolve().parent.parent


def train(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a training, which stops by itself; raises InputError where it fails, with the log's last line.

    environment: variables over those of this process.
    """
    variables = {**os.environ, **(environment or {})}
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(empty)"]
        raise InputError(f"{log}: the training ended with status {done.returncode}: {lines[-1]}")


def is_finished(run: Path, steps: int) -> bool:
    """Whether the newest checkpoint of a run is that of its last step."""
    newest = latest_complete(run)
    return newest is not None and step_of(newest) >= steps


def write_json(path: Path, content: object) -> None:
    """Write a file that is either whole or as it was before."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)
