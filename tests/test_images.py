"""2D images: how they lie, their two normalisations, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.catalog import PretrainingTask, load_records
from datasets.errors import InputError
from datasets.pretraining import PretrainingDataset
from datasets.sampling import SampleReference
from datasets.volume.anyres import content_of
from datasets.volume.augmentation import AugmentationOptions
from datasets.volume.images import load_image, load_image_by_window
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from tests.tiny_model import VISION


@pytest.mark.parametrize("name", ["slice.png", "slice.jpg"])
def test_a_2d_image_lies_like_a_slice_of_a_volume(tmp_path, name):
    # as radiologists look at it: the patient's right is on the left, the front is on top
    ras = np.zeros((40, 30), np.uint8) + 20
    ras[30:, 20:] = 250  # right and front
    Image.fromarray(ras[::-1, ::-1].T.copy()).convert("RGB").save(tmp_path / name, quality=95)
    array, geometry = load_image(tmp_path / name)
    assert array.shape == (1, 40, 30, 1) and array.dtype == np.float32
    assert array[0, 32:, 22:].mean() > 2 and array[0, :28].max() < 0
    assert abs(array.mean()) < 1e-4 and abs(array.std() - 1) < 1e-4
    stored, _ = load_image(tmp_path / name, "as_stored")
    assert stored.shape == (1, 30, 40, 1) and stored[0, :8, :8].mean() > 2  # on top, on the viewer's left
    nib.save(nib.Nifti1Image(ras[..., None].astype(np.float32), np.eye(4)), tmp_path / "volume.nii")
    volume, _ = load_volume(tmp_path / "volume.nii")
    assert np.abs(volume - array).max() < (1e-5 if name.endswith("png") else 0.5)
    assert geometry.spacing == (1, 1, 1)


def data_of(folder: Path, images: Sequence[str], **options: Any) -> PretrainingDataset:
    """A task of single slices over images of a folder, all of one class."""
    rows = [{"image_path": name, "disease_label": "affected COVID"} for name in images]
    (folder / "flat_train.json").write_text(json.dumps(rows))
    labels = ("not affected COVID", "affected COVID")
    task = PretrainingTask("flat", "classification", 1, f"{folder}/flat_{{split}}.json", labels, "CE", is_2d=True)

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), VISION.query_width)

    return PretrainingDataset([task], load_records([task]), embed, VISION, **options)


def test_a_2d_task_has_patches_of_depth_1(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 60000, (70, 40)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    sample = data_of(tmp_path, ["deep.png"], augmentation=AugmentationOptions(flip=1.0))[SampleReference("flat", 0, 1)]
    assert sample.volume.patches.shape[1:] == (*VISION.crop_size[:2], 1)
    assert sample.volume.slice_marks.shape[1] == 1 and sample.target.item() == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"no image", "not a PNG or JPEG image"),
        ("cut", "damaged or truncated"),
        ("flat", "every pixel is 7"),
    ],
)
def test_an_unusable_image_is_named(tmp_path, content, complaint):
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pixels = np.full((64, 64), 7, np.uint8)
        if content == "cut":
            pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        if content == "cut":
            path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=rf"a\.png.*{complaint}"):
        load_image(path)


@pytest.mark.parametrize(("type_", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_levels_go_through_the_window_of_their_type(tmp_path: Path, type_: type, white: int) -> None:
    levels = np.linspace(0.2, 0.6, 30 * 20).reshape(30, 20) * white
    pixels = levels.astype(type_)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    array, geometry = load_image_by_window(tmp_path / "a.png", "as_stored")
    expected = (pixels.astype(np.float64) - white / 2) * sqrt(12) / white
    assert array.shape == (1, 30, 20, 1) and array.dtype == np.float32
    assert np.abs(array[0, ..., 0] - expected).max() < 1e-5
    assert geometry == load_image(tmp_path / "a.png", "as_stored")[1]


def test_a_brighter_image_is_brighter(tmp_path: Path) -> None:
    base = np.random.default_rng(0).integers(50, 100, (40, 30)).astype(np.uint8)
    for name, shift in (("dark", 0), ("bright", 100)):
        Image.fromarray(base + np.uint8(shift)).save(tmp_path / f"{name}.png")
    dark, bright = (load_image_by_window(tmp_path / f"{name}.png")[0] for name in ("dark", "bright"))
    assert np.allclose(bright - dark, 100 * sqrt(12) / 255, atol=1e-5)
    assert np.allclose(*(load_image(tmp_path / f"{name}.png")[0] for name in ("dark", "bright")), atol=1e-4)


@pytest.mark.parametrize("type_", [np.float32, np.int32])
def test_levels_without_a_largest_one_are_refused(tmp_path: Path, type_: type) -> None:
    Image.fromarray((1000 * np.random.default_rng(0).random((20, 20))).astype(type_)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: its grey levels have no largest one; leave out --normalisation"):
        load_image_by_window(tmp_path / "a.tif")


@pytest.mark.parametrize(("normalisation", "expected"), [("window", 50 * sqrt(12) / 255), ("z-score", None)])
def test_the_record_says_which_way_a_task_takes(tmp_path: Path, normalisation: str, expected: float | None) -> None:
    """Two images of one picture, one brighter by 50: by the window they differ by so much, by z-scores not at all."""
    base = np.random.default_rng(0).integers(20, 100, (32, 32)).astype(np.uint8)
    for name, shift in (("dark", 0), ("bright", 50)):
        Image.fromarray(base + np.uint8(shift)).save(tmp_path / f"{name}.png")
    record = Preprocessing.standard(VISION.crop_size, 1).with_clip_hu((-1000, 1000)).with_normalisation(normalisation)
    data = data_of(
        tmp_path, ["dark.png", "bright.png"], preprocessing=record, augmentation=None, cache=tmp_path / "cache"
    )
    for _ in range(2):  # made, and from the cache
        dark, bright = (content_of(data[SampleReference("flat", index, 1)].volume) for index in range(2))
        assert (bright - dark).mean().item() == pytest.approx(expected or 0, abs=1e-3)
