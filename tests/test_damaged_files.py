"""Files whose format has a checksum: one changed byte anywhere is refused, or changes nothing that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from datasets.volume.cache import VolumeLoader
from datasets.volume.find_volumes import find_volumes
from datasets.volume.geometry import VolumeError
from datasets.volume.loading import read_volume
from datasets.volume.preprocessing import Preprocessing

FLIPS = 150


def _volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (12, 10, 8)).astype(np.int16)


def _nifti(path: Path) -> None:
    nib.save(nib.Nifti1Image(_volume(), np.diag([2.0, 2.0, 3.0, 1.0])), path)


def _itk(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(_volume()), str(path), useCompression=True)


def _npz(path: Path) -> None:
    np.savez_compressed(path, ct=_volume())


FORMATS: dict[str, Callable[[Path], None]] = {"a.nii.gz": _nifti, "a.nrrd": _itk, "a.mha": _itk, "a.npz": _npz}


def test_a_damaged_file_is_told_with_a_cache_too(tmp_path: Path) -> None:
    """The cache looks at a file's first bytes before its reader does."""
    path = tmp_path / "a.nii.gz"
    _nifti(path)
    content = path.read_bytes()
    loader = VolumeLoader(Preprocessing.standard((16, 16, 8), 1), tmp_path / "cache")
    refused = 0
    for place in range(20, 120):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            loader.volume(path)
        except VolumeError:
            refused += 1
    assert refused > 90
    (tmp_path / "notes.gz").write_bytes(content[:30] + bytes(200))
    assert find_volumes(tmp_path) == [str(path)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_byte_of_packed_voxels_is_never_answered(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    expected, _ = read_volume(path)
    content, random = path.read_bytes(), np.random.default_rng(1)
    start = content.index(b"\n\n") + 2 if name.endswith("nrrd") else 400 if name.endswith("mha") else 0
    refused = 0
    for place in [*random.integers(start, len(content), FLIPS).tolist(), len(content) - 6]:  # the last: of the checksum
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            found, _ = read_volume(path)
        except VolumeError:
            refused += 1
            continue
        assert np.array_equal(found, expected), place
    assert refused > FLIPS // 2
