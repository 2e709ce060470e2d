"""What a record does to volumes: the HU that are kept, what the same HU become, and the field of view."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from tests.ct_files import SPACING, as_orientation, write_nifti
from tests.tiny_model import VISION

STANDARD = Preprocessing.standard(VISION.crop_size, VISION.patch_max)
RELEASED = Preprocessing.released(VISION.crop_size, VISION.patch_max)


def test_a_volume_is_clipped_to_the_hu_that_its_model_was_trained_with(tmp_path):
    """Written out for a CT file; arrays that somebody else prepared are left as they are."""
    ct = np.random.default_rng(0).normal(100, 400, (40, 50, 12)).astype(np.float32)
    record, lines = STANDARD.with_options("a new model", True, {"clip_hu": (-250, 400)})
    assert lines == [
        "--clip_hu -250 400: a new model was trained with none; --override_preprocessing makes it -250 400"
    ]
    array, _ = load_volume(write_nifti(tmp_path / "ct.nii.gz", ct, np.eye(4)), preprocessing=record)
    clipped = ct.clip(-250, 400).astype(np.float64)
    np.testing.assert_allclose(array[0], (clipped - clipped.mean()) / clipped.std(), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"--clip_hu 0 100: the model was trained with -250 400; leave --clip_hu out"):
        record.with_options("the model", False, {"clip_hu": (0, 100)})
    released = RELEASED.with_clip_hu((-250, 400))
    assert released.array_as_is == RELEASED.array_as_is and released.rad_chest_ct_array.clip == (-250, 400)
    assert VolumeLoader(record)._options(arrays=False) != VolumeLoader(STANDARD)._options(arrays=False)
    air = write_nifti(tmp_path / "air.nii.gz", np.where(ct > 100, 500, -900).astype(np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"air.nii.gz: the volume is constant after clipping to 600 to 900 HU"):
        load_volume(air, preprocessing=STANDARD.with_clip_hu((600, 900)))


def test_a_field_of_view_is_the_middle_of_the_body_and_its_masks_lie_on_the_file(tmp_path):
    """A body of 30 x 9 x 8 voxels of 3 x 2 x 5 mm, of which 60 mm are kept across; along y it is smaller."""
    ct = np.full((40, 50, 12), -1000, np.float32)
    ct[6:36, 20:29, 2:10] = np.random.default_rng(0).normal(300, 50, (30, 9, 8)).clip(1)
    options = {"field_of_view": (60, 20), "clip_hu": (-250, 400), "normalisation": "window"}
    record, _ = STANDARD.with_options("a new model", True, options)
    path = write_nifti(tmp_path / "ct.nii.gz", ct, np.diag([3.0, 2, 5, 1]))
    array, geometry = load_volume(path, preprocessing=record)
    expected = (ct[11:31, 20:29, 2:10].clip(-250, 400) - 75) / (650 / 12**0.5)
    np.testing.assert_allclose(array[0], expected, rtol=1e-5, atol=1e-5)
    mask = np.ones(geometry.shape, np.uint8)
    back = geometry.to_source(mask)
    assert back.shape == ct.shape and back[11:31, 20:29, 2:10].all() and back.sum() == mask.sum()

    assert VolumeLoader(record)._options(arrays=False) != VolumeLoader(STANDARD)._options(arrays=False)
    assert record.field_of_view == (60, 20) and STANDARD.field_of_view is None
    assert RELEASED.with_field_of_view((60, 20)).array_as_is == RELEASED.array_as_is
    with pytest.raises(InputError, match="--field_of_view 30 10: the model was trained with 60 20; leave --field_of"):
        record.with_options("the model", False, {"field_of_view": (30, 10)})
    with pytest.raises(InputError, match=r"field of view is \[20, 0\]; give most mm of width and depth"):
        STANDARD.with_options("a new model", True, {"field_of_view": (20, 0)})


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLP", "as_stored"])
@pytest.mark.parametrize("stored", ["RAS", "PLI", "ASR"])
def test_a_field_of_view_is_of_the_patient_however_a_file_lies(stored, orientation):
    """Width and depth of 30 and 20 voxels, of which ten and six, half of them and less, are kept."""
    places = np.arange(30 * 20 * 12).reshape(30, 20, 12)
    array, affine = as_orientation(places, stored)
    geometry = VolumeGeometry.of_source("ct", array.shape, affine, orientation)
    narrow = geometry.narrowed((10 * SPACING[0], 6 * SPACING[1]))
    assert np.array_equal(np.sort(narrow.from_source(array), axis=None), np.sort(places[10:20, 7:13], axis=None))
    back = narrow.to_source(np.ones(narrow.shape, np.uint8))
    assert np.array_equal(back == 1, np.isin(array, places[10:20, 7:13]))


def test_a_field_of_view_needs_millimetres(tmp_path):
    np.save(tmp_path / "ct.npy", np.random.default_rng(0).normal(0, 300, (40, 40, 8)).astype(np.float32))
    with pytest.raises(
        InputError, match=r"ct.npy: the file has no spacing, and the model sees 240 x 360 mm of a slice"
    ):
        load_volume(tmp_path / "ct.npy", preprocessing=STANDARD.with_field_of_view((240, 360)))


def test_the_same_hu_are_the_same_in_every_volume(tmp_path):
    """Written out: less the middle, over the deviation of values spread evenly; whatever else the volume holds."""
    ct = np.random.default_rng(1).normal(0, 400, (40, 50, 12)).astype(np.float32)
    options = {"clip_hu": (-250, 400), "normalisation": "window"}
    record, lines = STANDARD.with_options("a new model", True, options)
    assert record.normalisation == "window" and len(lines) == 2
    for other in (0.0, 900.0):
        ct[20:] = other
        array, geometry = load_volume(write_nifti(tmp_path / f"{other}.nii.gz", ct, np.eye(4)), preprocessing=record)
        expected = (geometry.from_source(ct).clip(-250, 400).astype(np.float64) - 75) / (650 / 12**0.5)
        np.testing.assert_allclose(array[0], expected, rtol=1e-5, atol=1e-5)
    spread = (np.linspace(-250, 400, 10001) - 75) / (650 / 12**0.5)
    assert abs(spread.mean()) < 1e-9 and abs(spread.std() - 1) < 1e-3
    assert Preprocessing.from_dict(record.to_dict(), "config.json") == record
    assert VolumeLoader(record)._options(arrays=False) != VolumeLoader(STANDARD.with_clip_hu((-250, 400)))._options(
        arrays=False
    )
    released = RELEASED.with_clip_hu((-250, 400)).with_normalisation("window")
    assert released.array_as_is == RELEASED.array_as_is and released.rad_chest_ct_array.normalisation == "window"
    with pytest.raises(InputError, match="normalisation is 'window'; give the HU that are kept too"):
        STANDARD.with_options("a new model", True, {"clip_hu": None, "normalisation": "window"})
    with pytest.raises(InputError, match="--normalisation z-score: the model was trained with window"):
        record.with_options("the model", False, {"normalisation": "z-score"})
    air = write_nifti(tmp_path / "air.nii.gz", np.where(ct > 0, 900, 500).astype(np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"air.nii.gz: the volume is constant after clipping to -250 to 400 HU"):
        load_volume(air, preprocessing=record)
