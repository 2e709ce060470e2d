"""A PNG of masks over a CT: axial, coronal and sagittal planes at one physical scale, in radiological display.

Arrays are in RAS: index 0 grows to the patient's right, 1 to the front, 2 to the head. Radiological display shows the
patient as seen from the feet or face to face, so the patient's right is on the left of the picture, and sagittal
planes face left.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from datasets.errors import InputError
from datasets.whole_files import save_picture

# told apart with and without colour blindness (after Okabe and Ito, "Color Universal Design"), bright on the gray of a
# CT; more masks than these take hues around the circle
MASK_COLOURS = ("#e69f00", "#56b4e9", "#2ecc9b", "#f0e442", "#ff6b6b", "#cc79a7", "#7aa2ff", "#b3de69")
# (centre, width) in HU, the usual display windows of a CT workstation
WINDOWS = {"abdomen": (40, 400), "mediastinum": (50, 350), "lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80)}
LUNG_MEDIAN_HU = -400
BACKGROUND, INK = "#101418", "#e8edf2"
FIGURE_WIDTH_INCHES, DPI = 13.0, 110


@dataclass(frozen=True)
class Plane:
    """How one plane of a RAS volume is shown: the axis it is cut across, those down and along the picture, and the
    letters at its edges."""

    name: str
    cut_axis: int
    row_axis: int
    column_axis: int
    left: str
    right: str
    top: str
    bottom: str

    def image(self, volume: np.ndarray, index: int) -> np.ndarray:
        """The 2D picture (rows, columns). Both axes run against their RAS direction: rows down from A or S, columns
        from R or A."""
        plane = np.take(
            volume, index, axis=self.cut_axis
        )  # keeps the two other axes in rising order: (column axis, row axis)
        return plane.T[::-1, ::-1]


PLANES = (
    Plane("Axial", 2, 1, 0, "R", "L", "A", "P"),
    Plane("Coronal", 1, 2, 0, "R", "L", "S", "I"),
    Plane("Sagittal", 0, 2, 1, "A", "P", "S", "I"),
)


def mask_colours(count: int) -> list[tuple[float, float, float]]:
    """`count` distinct RGB colours, the same for the same position."""
    fixed = [to_rgb(colour) for colour in MASK_COLOURS[:count]]
    # The golden ratio spreads any number of hues without two neighbours being alike.
    return fixed + [
        colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1, 0.65, 1.0) for index in range(count - len(fixed))
    ]


def display_window(
    volume: np.ndarray, masks: Mapping[str, np.ndarray], window: str | tuple[float, float] | None
) -> tuple[float, float]:
    """Lowest and highest shown value.

    `window` is a name of WINDOWS, (centre, width) in HU, None for the 0.5 to 99.5 percentiles (values that are not
    HU), or "auto": the lung window where the masks' median is that of air-filled lung, else the abdomen's.
    """
    if window is None:
        low, high = np.percentile(volume, [0.5, 99.5])
        return float(low), float(max(high, low + 1e-6))
    if window == "auto":
        inside = [volume[mask] for mask in masks.values() if mask.any()]
        window = "lung" if inside and np.median(np.concatenate(inside)) < LUNG_MEDIAN_HU else "abdomen"
    if isinstance(window, str):
        if window not in WINDOWS:
            raise InputError(
                f"overlay: unknown window '{window}'; choose auto, {', '.join(WINDOWS)}, or give (centre, width) in HU"
            )
        window = WINDOWS[window]
    centre, width = window
    if not width > 0:
        raise InputError(f"overlay: a window of width {width} shows nothing; give a width above 0 HU")
    return centre - width / 2, centre + width / 2


def plane_indices(
    shape: Sequence[int], masks: Mapping[str, np.ndarray], center: Sequence[int] | None = None
) -> tuple[int, int, int]:
    """Voxel indices (x, y, z) of the three planes: `center`, else the centre of mass of all masks together, else the
    volume's middle.

    The centre of mass of a pair or an arch lies outside it; where its plane meets no mask, the plane with the most
    mask is taken.
    """
    if center is not None:
        if len(center) != 3 or not all(0 <= index < size for index, size in zip(center, shape, strict=True)):
            raise InputError(f"overlay: centre {tuple(center)} lies outside the volume {tuple(shape)}")
        return _three(int(index) for index in center)
    union = np.zeros(tuple(shape), dtype=bool)
    for mask in masks.values():
        union |= mask
    if not union.any():
        return _three(size // 2 for size in shape)
    indices = []
    for axis in range(3):
        profile = union.sum(axis=tuple(other for other in range(3) if other != axis))
        middle = round(float(np.average(np.arange(len(profile)), weights=profile)))
        indices.append(middle if profile[middle] else int(profile.argmax()))
    return _three(indices)


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z


def _checked(
    volume: np.ndarray, masks: Mapping[str, np.ndarray], spacing: Sequence[float]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    array = np.asarray(volume)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise InputError(f"overlay: the volume has shape {np.shape(volume)}; (H, W, D) in RAS is needed")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"overlay: spacing {tuple(spacing)} must be three positive millimetre values")
    checked = {}
    for name, mask in masks.items():
        checked[name] = np.asarray(mask) > 0
        if checked[name].shape != array.shape:
            raise InputError(
                f"overlay: mask '{name}' {checked[name].shape} and volume {array.shape} are on different grids"
            )
    return array, checked


def overlay_figure(
    volume: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    window: str | tuple[float, float] | None = "auto",
    title: str | None = None,
    center: Sequence[int] | None = None,
    outlines: Collection[str] = (),
    legend: bool = True,
) -> Figure:
    """The three planes side by side as a matplotlib Figure (no pyplot, no display, no global state).

    Args:
        volume: (H, W, D) or (1, H, W, D) in RAS, HU.
        masks: name -> (H, W, D), bool or 0/1; drawn and listed in this order. An empty one is called so in the legend.
        spacing: mm along H, W, D; pixels are drawn with their physical aspect.
        window: see `display_window`.
        center: voxel (x, y, z) to cut through instead of the masks' centre of mass.
        outlines: names of masks drawn as a line without a fill, so that a truth can be seen around a prediction.
        legend: whether the masks' names are written below the planes.
    Raises:
        InputError: shapes, spacing, window or centre are unusable.
    """
    array, masks = _checked(volume, masks, spacing)
    low, high = display_window(array, masks, window)
    indices = plane_indices(array.shape, masks, center)
    extent_mm = [size * step for size, step in zip(array.shape, spacing, strict=True)]
    widths = [extent_mm[plane.column_axis] for plane in PLANES]
    heights = [extent_mm[plane.row_axis] for plane in PLANES]
    colours = mask_colours(len(masks))

    legend_rows = -(-len(masks) // 5) if legend else 0
    # One scale for all planes: the picture's width holds the three widths, and its height the tallest plane.
    panel_inches = np.clip((FIGURE_WIDTH_INCHES - 1.2) * max(heights) / sum(widths), 2.0, 11.0)
    height_inches = panel_inches + 0.75 + 0.32 * legend_rows + (0.35 if title else 0)
    figure = Figure(figsize=(FIGURE_WIDTH_INCHES, height_inches), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    top = 1 - (0.45 + (0.35 if title else 0)) / height_inches
    bottom = (0.25 + 0.32 * legend_rows) / height_inches
    grid = figure.add_gridspec(1, 3, width_ratios=widths, left=0.02, right=0.98, top=top, bottom=bottom, wspace=0.06)
    for column, plane in enumerate(PLANES):
        axes = figure.add_subplot(grid[0, column])
        aspect = spacing[plane.row_axis] / spacing[plane.column_axis]
        index = indices[plane.cut_axis]
        axes.imshow(plane.image(array, index), cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        for (name, mask), colour in zip(masks.items(), colours, strict=True):
            section = plane.image(mask, index)
            if not section.any():
                continue
            if name not in outlines:
                fill = np.zeros((*section.shape, 4))
                fill[section] = (*colour, 0.38)
                axes.imshow(fill, aspect=aspect, interpolation="nearest")
            if min(section.shape) > 1:
                # One voxel of border closes the line of a mask that touches the edge of the scan.
                line = np.pad(section.astype(float), 1)
                rows, columns = (np.arange(-1, size + 1) for size in section.shape)
                axes.contour(columns, rows, line, levels=[0.5], colors=[colour], linewidths=1.3)
        axes.set_xlim(-0.5, plane.image(array, index).shape[1] - 0.5)
        axes.set_ylim(plane.image(array, index).shape[0] - 0.5, -0.5)
        axes.set_axis_off()
        axes.set_title(f"{plane.name}  {index + 1}/{array.shape[plane.cut_axis]}", color=INK, fontsize=11, pad=5)
        marks: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": "#ffd866", "transform": axes.transAxes}
        axes.text(0.015, 0.5, plane.left, ha="left", va="center", **marks)
        axes.text(0.985, 0.5, plane.right, ha="right", va="center", **marks)
        axes.text(0.5, 0.985, plane.top, ha="center", va="top", **marks)
        axes.text(0.5, 0.015, plane.bottom, ha="center", va="bottom", **marks)
    if masks and legend:
        handles = [
            Patch(
                facecolor="none" if name in outlines else (*colour, 0.5),
                edgecolor=colour,
                linewidth=1.5,
                label=name if mask.any() else f"{name} (empty)",
            )
            for (name, mask), colour in zip(masks.items(), colours, strict=True)
        ]
        key = figure.legend(
            handles=handles, loc="lower center", ncols=min(5, len(handles)), frameon=False, labelcolor=INK, fontsize=11
        )
        for words in key.get_texts():
            words.set_parse_math(False)  # names are anyone's: two dollar signs are no formula
    if title:
        place = {"y": 1 - 0.12 / height_inches, "va": "top"}
        figure.suptitle(title, color=INK, fontsize=12, wrap=True, parse_math=False, **place)
    return figure


def overlay_image(
    volume: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    window: str | tuple[float, float] | None = "auto",
    title: str | None = None,
) -> Image.Image:
    """`overlay_figure` as an RGB picture, which notebooks show and `save` writes."""
    figure = overlay_figure(volume, masks, spacing, window, title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_overlay(
    volume: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    path: str | Path,
    window: str | tuple[float, float] | None = "auto",
    title: str | None = None,
) -> Path:
    """Write `overlay_figure` as a PNG, whole or not at all, and return its path; folders are made."""
    return save_picture(overlay_figure(volume, masks, spacing, window, title), Path(path), facecolor=BACKGROUND)
