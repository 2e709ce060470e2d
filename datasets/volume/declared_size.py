"""The size that a header declares, looked at before memory is taken for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from datasets.volume.geometry import VolumeError

MAX_VOXELS = 2**30  # 1024 slices of 1024 x 1024: 4 GiB as float32
MOST_PACKED = 1032  # deflate makes no more bytes out of one


def check_voxels(source: str | Path, shape: Sequence[int]) -> int:
    """The number of voxels of a declared shape; VolumeError above `MAX_VOXELS`, and where a size is below 0."""
    if min(shape, default=0) < 0:
        raise VolumeError(f"{source}: damaged: its header declares {_times(shape)} voxels; copy it again")
    count = prod(int(size) for size in shape)
    if count > MAX_VOXELS:
        raise VolumeError(
            f"{source}: declares {_times(shape)} voxels, more than the {MAX_VOXELS} that are read; crop or resample it"
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
