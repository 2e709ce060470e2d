"""The cache of volumes notices a change in any file that a volume is made of."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from datasets.volume.cache import VolumeLoader
from datasets.volume.preprocessing import Preprocessing
from datasets.volume.rounded_patches import ERROR
from tests.ct_files import write_dicom, write_itk

WRITERS = {
    "DICOM folder": (lambda folder, ct: write_dicom(folder / "series", ct, series="1.2.3"), "series/*.dcm"),
    "header and voxels": (lambda folder, ct: write_itk(folder / "a.mhd", ct, True), "a.raw"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_an_edited_part_is_read_anew(kind, tmp_path):
    write, parts = WRITERS[kind]
    ct = np.random.default_rng(0).integers(-512, 512, (12, 10, 6)).astype(np.int16) * 2
    path = write(tmp_path, ct)
    whole = os.stat(path)
    loader = VolumeLoader(Preprocessing.standard((32, 32, 8), 1), tmp_path / "cache")
    before = loader.volume(path)[0].patches
    assert torch.equal(loader.volume(path)[0].patches, before)
    write(tmp_path, ct[::-1])
    for number, part in enumerate(sorted(tmp_path.glob(parts))):
        os.utime(part, ns=(number, number))  # a clock of coarse ticks must not decide
    os.utime(path, ns=(whole.st_atime_ns, whole.st_mtime_ns))  # folder and header look as they did
    after = loader.volume(path)[0].patches
    expected = VolumeLoader(loader.preprocessing).volume(path)[0].patches
    assert torch.allclose(after, expected, rtol=0, atol=ERROR * float(expected.max() - expected.min()))
    assert not torch.equal(after, before)


def _truncated(content: bytearray) -> bytearray:
    return content[: len(content) // 2]


def _flipped(content: bytearray) -> bytearray:
    content[len(content) - 100] ^= 4
    return content


DAMAGE = {"empty": lambda _: bytearray(), "truncated": _truncated, "a flipped bit": _flipped}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(damage, tmp_path, caplog):
    path = write_itk(tmp_path / "a.mha", np.random.default_rng(0).integers(-500, 500, (12, 10, 6)).astype("i2"), True)
    mask = write_itk(tmp_path / "m.mha", np.random.default_rng(1).integers(0, 2, (12, 10, 6)).astype("u1"), True)
    loader = VolumeLoader(Preprocessing.standard((32, 32, 8), 1), tmp_path / "cache")
    volume, geometry = loader.volume(path)
    masks = loader.masks(str(mask), None, volume.placement, geometry)
    entries = {entry: entry.read_bytes() for entry in sorted((tmp_path / "cache").rglob("*.safetensors"))}
    assert len(entries) == 2
    for entry, content in entries.items():
        entry.write_bytes(DAMAGE[damage](bytearray(content)))
    again, _ = loader.volume(path)
    assert torch.equal(again.patches, volume.patches) and again.placement == volume.placement
    assert torch.equal(loader.masks(str(mask), None, volume.placement, geometry), masks)
    assert torch.equal(loader.volume(path)[0].patches, volume.patches)
    assert caplog.text.count("it is made again") == 2  # and the third time it is good


def test_a_full_disk_leaves_the_cache_out(tmp_path, caplog):
    path = write_itk(tmp_path / "a.mha", np.random.default_rng(0).integers(-500, 500, (12, 10, 6)).astype("i2"), True)
    (tmp_path / "cache").write_text("a file where the folder should be")
    loader = VolumeLoader(Preprocessing.standard((32, 32, 8), 1), tmp_path / "cache")
    with_room, _ = VolumeLoader(loader.preprocessing, tmp_path / "other").volume(path)
    for _ in range(2):
        assert torch.equal(loader.volume(path)[0].patches, with_room.patches)
    assert caplog.text.count("cannot be written") == 1
