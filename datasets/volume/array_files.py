"""Arrays in .npy and .npz files, whose headers are looked at before memory is taken for their voxels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from datasets.volume.declared_size import MOST_PACKED, check_declared
from datasets.volume.geometry import VolumeError

_OF_RAD_CHEST_CT = "ct"  # the name of its volumes within their archives


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; VolumeError for one that declares more than the file holds."""
    with open(path, "rb") as file:
        _check_array(path, file, path.stat().st_size)
    return np.load(path, allow_pickle=False)


def is_rad_chest_ct(path: Path) -> bool:
    """Whether an archive's volume is named as RadChestCT names it; only the archive's list of names is read.

    Raises BadZipFile or OSError where that cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        return any(name.removesuffix(".npy") == _OF_RAD_CHEST_CT for name in archive.namelist())


def read_npz(path: Path) -> np.ndarray:
    """The volume of an archive, as stored.

    Raises VolumeError where it is not clear which array is the volume, or where one declares more than it can hold.
    """
    with np.load(path, allow_pickle=False) as arrays:
        named = [name for name in (_OF_RAD_CHEST_CT, "arr_0") if name in arrays.files]
        names = named or arrays.files
        if named or len(names) == 1:
            _check_member(path, names[0])
            array = arrays[names[0]]
            if isinstance(array, np.ndarray):  # any other zip archive gives bytes
                return array
        held = ", ".join([*arrays.files[:4], *(["..."] if len(arrays.files) > 4 else [])]) or "nothing"
        raise VolumeError(f"{path}: expected an array named ct or arr_0, or a single array; it holds: {held}")


def _check_member(path: Path, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        stored = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
        entry = archive.getinfo(stored)
        packed = min(entry.compress_size, path.stat().st_size)
        with archive.open(entry) as file:
            _check_array(path, file, min(entry.file_size, packed * MOST_PACKED))


def _check_array(path: Path, file: IO[bytes], size: int) -> None:
    """VolumeError for a declared array that `size` bytes cannot hold; one that is no array is left to numpy."""
    if file.read(6) != b"\x93NUMPY":
        return
    version = tuple(file.read(2))
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > size:
        return
    file.seek(0)
    np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject:
        check_declared(path, shape, dtype.itemsize, size)
