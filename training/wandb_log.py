"""A run's scalars for Weights & Biases, kept on this machine: `wandb sync` uploads them when the user says so.

The package is none of the requirements.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets.errors import InputError


def require_wandb(choice: str) -> None:
    """Raise InputError where `--wandb` asks for the package and it is not installed."""
    if choice == "off":
        return
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # the second: a mere folder of that name, as earlier runs leave it
        raise InputError(f"--wandb {choice}: the package wandb is not installed; pip install wandb, or leave this out")


class WandbLog:
    """An offline run of its own below `run_dir`/wandb; runs that go on from a checkpoint share the folder's group."""

    def __init__(self, run_dir: Path, arguments: Mapping[str, Any]) -> None:
        require_wandb("offline")
        wandb = importlib.import_module("wandb")
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="ctinstruct",
            group=run_dir.name,
            dir=str(run_dir),
            mode="offline",
            config=dict(arguments),
            save_code=False,
            settings=wandb.Settings(console="off", silent=True),
        )

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note values of a step; steps only rise."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def wandb_log(choice: str, run_dir: Path, arguments: Mapping[str, Any] | None, main: bool) -> WandbLog | None:
    """The log that `--wandb` asks for, on the main rank alone."""
    return WandbLog(run_dir, arguments or {}) if main and choice == "offline" else None
