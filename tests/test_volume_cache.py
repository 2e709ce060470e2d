"""The cache of volumes notices a change in any file that a volume is made of."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from datasets.volume.cache import VolumeLoader
from datasets.volume.preprocessing import Preprocessing
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
    assert torch.equal(after, VolumeLoader(loader.preprocessing).volume(path)[0].patches)
    assert not torch.equal(after, before)
