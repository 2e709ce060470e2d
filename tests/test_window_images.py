"""2D images whose grey levels are taken as one window: the same level is the same number in every file."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.catalog import PretrainingTask, load_records
from datasets.errors import InputError
from datasets.pretraining import PretrainingDataset
from datasets.sampling import SampleReference
from datasets.volume.anyres import content_of
from datasets.volume.images import load_image, load_image_by_window
from datasets.volume.preprocessing import Preprocessing
from tests.tiny_model import VISION


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


def test_levels_without_a_largest_one_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((20, 20)).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: its grey levels have no largest one; leave out --normalisation"):
        load_image_by_window(tmp_path / "a.tif")


@pytest.mark.parametrize(("normalisation", "expected"), [("window", 50 * sqrt(12) / 255), ("z-score", None)])
def test_the_record_says_which_way_a_task_takes(tmp_path: Path, normalisation: str, expected: float | None) -> None:
    """Two images of one picture, one brighter by 50: by the window they differ by so much, by z-scores not at all."""
    base = np.random.default_rng(0).integers(20, 100, (32, 32)).astype(np.uint8)
    rows = []
    for name, shift in (("dark", 0), ("bright", 50)):
        Image.fromarray(base + np.uint8(shift)).save(tmp_path / f"{name}.png")
        rows.append({"image_path": f"{name}.png", "disease_label": "affected COVID"})
    (tmp_path / "flat_train.json").write_text(json.dumps(rows))
    labels = ("not affected COVID", "affected COVID")
    task = PretrainingTask("flat", "classification", 1, f"{tmp_path}/flat_{{split}}.json", labels, "CE", is_2d=True)
    record = Preprocessing.standard(VISION.crop_size, 1).with_clip_hu((-1000, 1000)).with_normalisation(normalisation)
    data = PretrainingDataset(
        [task],
        load_records([task]),
        lambda texts: torch.zeros(len(texts), VISION.query_width),
        VISION,
        preprocessing=record,
        augmentation=None,
        cache=tmp_path / "cache",
    )
    for _ in range(2):  # made, and from the cache
        dark, bright = (content_of(data[SampleReference("flat", index, 1)].volume) for index in range(2))
        assert (bright - dark).mean().item() == pytest.approx(expected or 0, abs=1e-3)
