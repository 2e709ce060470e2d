"""Paths into the shared folder beside the project: parity vectors and real CT, which are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("CTINSTRUCT_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def shared_path(*parts: str) -> Path:
    """A file or folder of the shared folder; the calling test is skipped, with a message, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; set CTINSTRUCT_SHARED to the folder that holds {parts[0]}/")
    return path
