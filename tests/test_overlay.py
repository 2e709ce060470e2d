"""The overlay's orientation, physical aspect, planes and colours, read back from arrays and from the PNG's pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from datasets.errors import InputError
from datasets.volume.overlay import (
    MASK_COLOURS,
    PLANES,
    display_window,
    mask_colours,
    overlay_figure,
    plane_indices,
    save_overlay,
)

SPACING = (1.0, 1.0, 4.0)


def sphere(shape: tuple[int, int, int], centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [np.arange(size) * step - c for size, step, c in zip(shape, SPACING, centre_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius_mm**2


def test_planes_show_the_patient_as_a_radiologist_sees_him() -> None:
    """RAS indices grow to right, front and head: the first pixel is right-front, right-head and front-head."""
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    axial, coronal, sagittal = (plane.image(volume, 1) for plane in PLANES)
    assert axial.shape == (5, 4) and coronal.shape == (6, 4) and sagittal.shape == (6, 5)
    assert axial[0, 0] == volume[-1, -1, 1] and axial[-1, 0] == volume[-1, 0, 1] and axial[0, -1] == volume[0, -1, 1]
    assert coronal[0, 0] == volume[-1, 1, -1] and coronal[-1, -1] == volume[0, 1, 0]
    assert sagittal[0, 0] == volume[1, -1, -1] and sagittal[-1, -1] == volume[1, 0, 0]
    assert [(p.left, p.right, p.top, p.bottom) for p in PLANES] == [
        ("R", "L", "A", "P"),
        ("R", "L", "S", "I"),
        ("A", "P", "S", "I"),
    ]


def outline_pixels(picture: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(picture.astype(int) - np.round(np.array(to_rgb(colour)) * 255)).max(-1) < 12


def test_a_sphere_is_round_in_every_plane_and_on_the_right_side(tmp_path: Path) -> None:
    """A ball in the right front upper part of a scan with 4 mm slices, found by its colour in the written PNG."""
    shape = (120, 100, 40)
    ball = sphere(shape, (85.0, 65.0, 100.0), 30.0)
    path = save_overlay(np.full(shape, -1000.0), {"ball": ball}, SPACING, tmp_path / "new" / "overlay.png")
    picture = np.asarray(Image.open(path).convert("RGB"))
    found = outline_pixels(picture[: int(picture.shape[0] * 0.88)], MASK_COLOURS[0])  # without the legend
    columns = np.flatnonzero(found.any(0))
    balls = np.split(columns, np.flatnonzero(np.diff(columns) > 40) + 1)
    assert len(balls) == 3
    # Panels stand side by side at one scale, with widths 120, 120 and 100 mm.
    axial, coronal, sagittal = (np.argwhere(found[:, group[0] : group[-1] + 1]) for group in balls)
    diameters = [np.ptp(pixels, axis=0) for pixels in (axial, coronal, sagittal)]
    for height, width in diameters:
        assert width == pytest.approx(height, rel=0.12)  # 4 mm steps of 60 mm
    assert np.max(diameters) / np.min(diameters) < 1.12
    scale = diameters[0][1] / 60  # pixels a millimetre
    assert balls[1].mean() - balls[0].mean() == pytest.approx(120 * scale, rel=0.15)
    # The centre lies 35 mm from the patient's right edge (120 mm wide), so left of the middle of its panel, and 50 mm
    # from the front in the sagittal plane's 100 mm, above the middle in all.
    left_of_axial = balls[0].mean() / scale
    assert 25 < left_of_axial - 0.02 * picture.shape[1] / scale < 45


def test_planes_run_through_the_centre_of_mass_or_the_most_of_a_mask_that_is_hollow_there() -> None:
    shape = (40, 40, 40)
    one = np.zeros(shape, dtype=bool)
    one[10:15, 20:31, 5:8] = True
    assert plane_indices(shape, {"one": one}) == (12, 25, 6)
    pair = np.zeros(shape, dtype=bool)
    pair[2:6, 10:20, 10:20] = True
    pair[30:35, 10:20, 10:20] = True  # one slice more than the other side; nothing in between
    x, y, z = plane_indices(shape, {"pair": pair})
    assert pair[x].any() and (y, z) == (14, 14)
    assert plane_indices(shape, {"none": np.zeros(shape, dtype=bool)}) == (20, 20, 20)
    assert plane_indices(shape, {"one": one}, (1, 2, 3)) == (1, 2, 3)


def test_window_follows_the_mask_or_the_request() -> None:
    volume = np.full((4, 4, 4), 50.0)
    volume[:2] = -850
    lung, soft = volume < -400, volume > 0
    assert display_window(volume, {"lung": lung}, "auto") == (-1350, 150)
    assert display_window(volume, {"soft": soft}, "auto") == display_window(volume, {}, "auto") == (-160, 240)
    assert display_window(volume, {}, (100, 50)) == (75, 125) and display_window(volume, {}, None) == (-850, 50)


def test_masks_have_distinct_colours_and_all_stand_in_the_legend() -> None:
    assert len(set(mask_colours(30))) == 30
    volume = np.zeros((20, 20, 20))
    masks = {name: np.zeros(volume.shape, dtype=np.uint8) for name in ("a", "b", "nothing here")}
    masks["a"][3:8], masks["b"][10:15] = 1, 1
    figure = overlay_figure(volume, masks, (1, 1, 1), title="A title", outlines={"b"})
    legend = figure.legends[0]
    assert [entry.get_text() for entry in legend.get_texts()] == ["a", "b", "nothing here (empty)"]
    colours = [patch.get_edgecolor()[:3] for patch in legend.get_patches()]
    assert colours == [to_rgb(colour) for colour in MASK_COLOURS[:3]]
    letters = [{text.get_text() for text in axes.texts} for axes in figure.axes]
    assert letters == [{"R", "L", "A", "P"}, {"R", "L", "S", "I"}, {"A", "P", "S", "I"}]
    # A fill for the mask "a" only, beside the CT itself, wherever it is cut.
    assert max(len(axes.images) for axes in figure.axes) == 2


def test_a_channel_axis_a_single_slice_and_no_mask_are_drawn(tmp_path: Path) -> None:
    assert save_overlay(np.zeros((1, 8, 9, 10)), {}, (1, 1, 1), tmp_path / "a.png").stat().st_size > 0
    flat = np.ones((30, 30, 1), dtype=bool)
    assert save_overlay(np.zeros((30, 30, 1)), {"flat": flat}, (1, 1, 5), tmp_path / "b.png").stat().st_size > 0


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    mask = sphere((40, 40, 10), (20, 20, 20), 12)
    first, second = (
        save_overlay(np.zeros((40, 40, 10)), {"m": mask}, SPACING, tmp_path / f"{i}.png").read_bytes() for i in (1, 2)
    )
    assert first == second


def test_no_pyplot_and_no_display_is_needed() -> None:
    code = "import sys, datasets.volume.overlay; sys.exit('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, env={"PATH": "", "PYTHONPATH": str(root)}).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"masks": {"liver": np.zeros((2, 3, 3))}}, "mask 'liver'"),
        ({"spacing": (1, 1, -1)}, "spacing"),
        ({"window": "soft"}, "unknown window 'soft'"),
        ({"window": (40, 0)}, "width 0"),
        ({"center": (0, 0, 3)}, "outside the volume"),
        ({"volume": np.zeros((3, 3))}, "shape"),
    ],
)
def test_bad_input_is_one_clear_error(kwargs: dict, message: str) -> None:
    arguments = {"volume": np.zeros((3, 3, 3)), "masks": {}, "spacing": (1, 1, 1)} | kwargs
    with pytest.raises(InputError, match=message):
        overlay_figure(**arguments)
