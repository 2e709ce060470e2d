"""What a browser is given of a CT: all of it as a rule, every so-many-th voxel of a huge one, in the same place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.volume.viewer_copy import MOST_SHOWN, shown_step
from models.answering.answer import Mask
from serving.answerer import store_mask
from serving.sessions import OpenedVolume
from serving.volume_files import open_volume


def test_usual_cts_are_shown_whole():
    for shape in ((512, 512, 1000), (768, 768, 400), (122, 101, 112), (2048, 16, 16)):
        assert shown_step(shape, (0.7, 0.7, 1.0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((1024, 1024, 1024), (0.4, 0.4, 1.0), (2, 2, 1)),  # slices lie wide apart: they stay
        ((512, 512, 4000), (0.8, 0.8, 0.25), (1, 1, 4)),
        ((4096, 64, 64), (0.1, 0.5, 0.5), (2, 1, 1)),  # one side is too long
    ],
)
def test_huge_ones_are_thinned_out_where_their_voxels_lie_closest(shape, spacing, expected):
    step = shown_step(shape, spacing)
    assert step == expected
    assert np.prod([-(-size // each) for size, each in zip(shape, step, strict=True)]) <= MOST_SHOWN


def test_a_thinned_ct_and_its_mask_stay_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.volume_files.shown_step", lambda *of: shown_step(*of, most=1000))
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(-1000, 400, (24, 22, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "ct.nii.gz")
    file = open_volume(tmp_path / "ct.nii.gz", "key", "ct.nii.gz", tmp_path / "image.nii")
    assert file.step != (1, 1, 1) and "one of" in file.note
    shown = nib.load(tmp_path / "image.nii")
    mask = np.zeros(voxels.shape, np.uint8)
    mask[4:13, 6:15, 2:9] = 1
    volume = OpenedVolume("id", file, tmp_path / "volume")
    stored = store_mask(Mask("liver", mask, file.geometry), volume)
    shown_mask = nib.load(stored.shown)
    assert shown_mask.get_data_dtype() == np.uint8 and shown_mask.shape == shown.shape  # what the page reads
    assert np.array_equal(nib.load(stored.path).get_fdata(), mask)
    for place in np.ndindex(shown.shape):
        x, y, z = (np.linalg.inv(affine) @ shown.affine @ [*place, 1])[:3].round().astype(int)
        assert shown.dataobj[place] == voxels[x, y, z] and shown_mask.dataobj[place] == mask[x, y, z]
    assert np.asarray(shown_mask.dataobj)[stored.centre]
    volume.keep(store_mask(Mask("liver", mask, file.geometry), volume))
    assert not stored.path.exists() and not stored.shown.exists()  # replaced
    thin = np.zeros_like(mask)
    thin[1, 1, 1] = 1
    assert store_mask(Mask("spot", thin, file.geometry), volume).centre is not None
