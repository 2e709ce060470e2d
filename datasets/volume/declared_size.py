"""The size that a header declares, looked at before memory is taken for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from datasets.errors import InputError
from datasets.volume.geometry import VolumeError

MAX_VOXELS = 2**30  # 1024 slices of 1024 x 1024: 4 GiB as float32
MAX_VOXELS_VARIABLE = "CTINSTRUCT_MAX_VOXELS"  # of the environment, which the processes that are started later inherit
MOST_PACKED = 1032  # deflate makes no more bytes out of one


def allow_voxels(count: int | None) -> None:
    """What `--max_voxels` does: this process, and those that it starts from now on, refuse volumes of more voxels.

    None leaves the limit as it is.  Raises InputError for less than one voxel.
    """
    if count is None:
        return
    if count < 1:
        raise InputError(f"--max_voxels is {count}: give a number of voxels, 1 or more")
    os.environ[MAX_VOXELS_VARIABLE] = str(count)


def most_voxels() -> int:
    """How many voxels a volume may have: `CTINSTRUCT_MAX_VOXELS` of the environment, else `MAX_VOXELS`.

    Raises InputError where that variable is no number of voxels.
    """
    given = os.environ.get(MAX_VOXELS_VARIABLE, "")
    if not given:
        return MAX_VOXELS
    if not (given.isascii() and given.isdigit() and int(given)):
        raise InputError(f"{MAX_VOXELS_VARIABLE} is {given!r} in the environment: give a number of voxels, 1 or more")
    return int(given)


def check_voxels(source: str | Path, shape: Sequence[int]) -> int:
    """The number of voxels of a declared shape; VolumeError above `most_voxels`, and where a size is below 0."""
    if min(shape, default=0) < 0:
        raise VolumeError(f"{source}: damaged: its header declares {_times(shape)} voxels; copy it again")
    count, most = prod(int(size) for size in shape), most_voxels()
    if count > most:
        raise VolumeError(
            f"{source}: declares {_times(shape)} voxels, more than the {most} that are read; crop or resample it, or "
            f"allow more by --max_voxels or {MAX_VOXELS_VARIABLE} in the environment"
        )
    return count


def check_declared(source: str | Path, shape: Sequence[int], voxel_bytes: int, held: int, packed: bool = False) -> int:
    """The bytes that a declared shape needs.

    held: bytes that the file has for them.  packed: they are compressed with deflate (gzip, zip, zlib).
    Raises VolumeError for more voxels than are read, or than these bytes can hold.
    """
    needed = check_voxels(source, shape) * voxel_bytes
    if needed > held * (MOST_PACKED if packed else 1):
        raise VolumeError(
            f"{source}: damaged or truncated: its header declares {_times(shape)} voxels ({needed} bytes), which "
            f"{held}{' packed' if packed else ''} bytes cannot hold; copy it again"
        )
    return needed


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(int(size)) for size in shape)
