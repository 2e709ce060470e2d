"""A folder of slices as images is a volume: in the order of their numbers, lying as single slices do."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from datasets.volume.geometry import VolumeError
from datasets.volume.images import load_image
from datasets.volume.loading import load_volume, read_volume

SHAPE = (12, 10, 11)  # rows, columns, slices


@pytest.fixture
def slices():
    rng = np.random.default_rng(0)
    return rng.integers(1, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, slices):
    """Numbered without leading zeros, so that the order of the letters (1, 10, 2) is the wrong one."""
    for index in range(SHAPE[2]):
        Image.fromarray(slices[:, :, index]).save(tmp_path / f"{index + 1}.png")
    (tmp_path / "._1.png").write_bytes(b"no image")
    return tmp_path


def test_slices_stand_in_the_order_of_their_numbers(folder, slices):
    array, geometry = read_volume(folder, "as_stored")
    assert np.array_equal(array[0], slices)
    assert geometry.source_orientation == "PLS"


def test_a_marked_pixel_lies_where_radiologists_see_it(folder, slices):
    """The last row is the back and the last column the left: voxel (0, 0) of RAS, which runs from left and back."""
    array, _ = read_volume(folder)
    assert array.shape == (1, SHAPE[1], SHAPE[0], SHAPE[2])
    assert array[0, 0, 0, 3] == slices[-1, -1, 3]
    assert array[0, -1, -1, 0] == slices[0, 0, 0]


def test_a_volume_of_slices_lies_as_each_slice_alone(folder):
    """Up to normalisation, which is over the volume: the grey of both differ by an affine map."""
    volume, _ = load_volume(folder)
    slice_, _ = load_image(folder / "4.png")
    assert np.corrcoef(volume[0, :, :, 3].ravel(), slice_[0, :, :, 0].ravel())[0, 1] > 0.9999


def test_axes_can_be_named_or_left_as_they_are(folder, slices, caplog):
    with caplog.at_level(logging.WARNING):
        named, _ = read_volume(folder, array_axes="PLI")
        kept, _ = read_volume(folder, array_axes="as_stored")
    assert not caplog.records
    assert named[0, 0, 0, 0] == slices[-1, -1, -1]
    assert np.array_equal(kept[0], slices)


def test_colour_and_16_bits_are_read_as_grey(tmp_path):
    deep = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep[::-1].copy()).save(tmp_path / "b.png")
    array, _ = read_volume(tmp_path, "as_stored")
    assert np.array_equal(array[0], np.stack([deep, deep[::-1]], axis=2))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: Image.new("L", (3, 3), 9).save(folder / "5.png"), "5.png: has 3 x 3 pixels, 1.png has 12 x 10"),
        (lambda folder: (folder / "5.png").write_bytes(b"\x89PNG"), "5.png: cannot be read as an image"),
        (lambda folder: [(folder / f"{number}.png").unlink() for number in range(2, 12)], "holds 1 slices"),
        (lambda folder: (folder / "scan").write_bytes(bytes(128) + b"DICM"), "DICOM"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_volume_is_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(VolumeError, match=message) as error:
        read_volume(folder)
    assert "\n" not in str(error.value)
