"""Paths into a folder beside the project that holds real CT, which is no part of the project.

SHARED/data/real_ct/example_ct_sm.nii.gz is one of them (TotalSegmentator's test files, Apache-2.0).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_VARIABLE = "CTINSTRUCT_SHARED"
SHARED = Path(os.environ.get(SHARED_VARIABLE) or Path(__file__).resolve().parents[2] / "shared")
EXAMPLE_CT = "data/real_ct/example_ct_sm.nii.gz"  # the input of the loader's parity vector


def shared_path(*parts: str) -> Path:
    """A file or folder of the shared folder; the calling test is skipped, with a message, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; set {SHARED_VARIABLE} to the folder that holds {parts[0]}/")
    return path
