"""Figures of the report as text to put into a page: ROC and calibration curves, box plots (SVG), overlays (PNG).

SVG figures take their colours from the page's CSS variables, so that they follow its light and dark theme, and its
fonts, so that nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_curve

from datasets.volume.overlay import PLANES, display_window, overlay_figure, plane_indices

# Stand-ins that Matplotlib writes into the SVG, and the CSS variables they become.
INK, MUTED, GRID, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
CSS_COLOURS = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", SECOND: "--second"}
CALIBRATION_BINS = 10
AIR_HU = -500.0  # a CT in HU has values below this; another volume is shown by its percentiles


def known_pairs(targets: Sequence[Any], probabilities: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Targets (n,) of 0/1 and probabilities (n,) without the samples whose target is unknown (None or NaN).

    A known target without a probability counts as probability 0, as in the metrics.
    """
    target = np.array([np.nan if value is None else value for value in targets], dtype=np.float64)
    score = np.array([0.0 if value is None else value for value in probabilities], dtype=np.float64)
    known = ~np.isnan(target)
    return target[known].astype(int), score[known]


def roc_points(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positive rate, true positive rate), both (k,), from (0, 0) to (1, 1); empty where a class is missing."""
    if len(set(targets.tolist())) < 2:
        return np.zeros(0), np.zeros(0)
    false_positive, true_positive, _ = roc_curve(targets, probabilities, drop_intermediate=True)
    return false_positive, true_positive


def calibration_points(
    targets: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, share of positives and number of samples of each bin of equal width that holds any."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    held = count > 0
    confidence = np.bincount(index, probabilities, minlength=bins)[held] / count[held]
    positive = np.bincount(index, targets, minlength=bins)[held] / count[held]
    return confidence, positive, count[held]


def calibration_error(targets: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> float | None:
    """Expected calibration error: |mean confidence - share of positives|, averaged over samples; None without any."""
    if len(targets) == 0:
        return None
    confidence, positive, count = calibration_points(targets, probabilities, bins)
    return float(np.average(np.abs(confidence - positive), weights=count))


def _unit_square(x_label: str, y_label: str) -> tuple[Figure, Any]:
    """Axes over [0, 1] x [0, 1] with the diagonal, small enough for two beside each other on a phone."""
    figure = Figure(figsize=(2.3, 2.3))
    axes = figure.add_axes((0.13, 0.13, 0.85, 0.85))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(("0", "", "1"))
    axes.set_yticklabels(("0", "", "1"))
    axes.set_xlabel(x_label, color=MUTED, fontsize=8.5, labelpad=-6)
    axes.set_ylabel(y_label, color=MUTED, fontsize=8.5, labelpad=-5)
    _style(axes)
    return figure, axes


def _style(axes: Any) -> None:
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def roc_figure(targets: np.ndarray, probabilities: np.ndarray, threshold: float | None = None) -> Figure:
    """ROC curve of one disease; a dot marks the threshold that its F1 was taken at."""
    figure, axes = _unit_square("False positive rate", "True positive rate")
    false_positive, true_positive = roc_points(targets, probabilities)
    axes.plot(false_positive, true_positive, color=ACCENT, linewidth=1.8)
    if threshold is not None and len(false_positive):
        called = probabilities >= threshold
        axes.plot([called[targets == 0].mean()], [called[targets == 1].mean()], marker="o", markersize=5, color=SECOND)
    return figure


def calibration_figure(targets: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> Figure:
    """Reliability of one disease: share of positives over confidence; bars show where the samples lie."""
    figure, axes = _unit_square("Confidence", "Share positive")
    confidence, positive, count = calibration_points(targets, probabilities, bins)
    if len(count):
        axes.bar(confidence, 0.3 * count / count.sum(), width=0.06, color=GRID)
        axes.plot(confidence, positive, color=ACCENT, linewidth=1.5, marker="o", markersize=4)
    return figure


def box_figure(values: Mapping[str, Sequence[float]]) -> Figure:
    """Dice as a box a structure, highest median on top: quartiles, whiskers of at most 1.5 interquartile ranges, every
    case as a dot.

    Args:
        values: {structure: Dice of each case}, none empty.
    """
    names = sorted(values, key=lambda name: -float(np.median(values[name])))
    figure = Figure(figsize=(4.6, 0.55 + 0.33 * len(names)))
    longest = max((len(name) for name in names), default=0)
    left = min(0.10 + 0.0175 * longest, 0.6)  # room for the longest name
    bottom = 0.42 / figure.get_figheight()
    axes = figure.add_axes((left, bottom, 0.96 - left, 0.97 - bottom))
    line = {"color": ACCENT, "linewidth": 1.3}
    places = np.arange(len(names))
    if names:
        axes.boxplot(
            [values[name] for name in names],
            positions=places,
            orientation="horizontal",
            widths=0.56,
            showfliers=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops={"color": INK, "linewidth": 2},
        )
        # Cases side by side within the box: even steps, so that the same numbers give the same picture.
        for place, name in zip(places, names, strict=True):
            offset = np.linspace(-0.16, 0.16, len(values[name])) if len(values[name]) > 1 else np.zeros(1)
            axes.plot(values[name], place + offset, "o", color=SECOND, markersize=2.6, alpha=0.75)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(places, [f"{name} ({len(values[name])})" for name in names])
    axes.set_xlabel("Dice", color=MUTED, fontsize=9)
    _style(axes)
    axes.tick_params(axis="y", colors=INK, labelsize=10)
    axes.grid(axis="y", visible=False)
    return figure


def to_svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG that scales to its container, in the page's colours and font.

    Args:
        description: what a screen reader says of it.
    """
    buffer = io.StringIO()
    # Element ids are hashed with the salt: figures of one page must not share them.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)  # a style would reach the whole page
    svg = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"\s*font-family:[^;\"]*;?", "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # figure_1 and its like stand in every figure
    for colour, variable in CSS_COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    opening = svg[: svg.index(">") + 1]
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    resized = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    return resized.replace("<svg", f'<svg role="img" aria-label="{label}"', 1) + svg[len(opening) :].strip()


def case_figure(
    volume: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray | None,
    spacing: Sequence[float],
    title: str | None = None,
) -> Figure:
    """The axial, coronal and sagittal plane through the truth's middle: the truth as a line, the prediction filled.

    Args:
        volume: (H, W, D) in RAS, HU.
        truth, prediction: (H, W, D), bool or 0/1; None where there is none.
        spacing: mm.
    """
    empty = np.zeros(volume.shape, dtype=bool)
    masks = {
        "truth": empty if truth is None else truth > 0,
        "prediction": empty if prediction is None else prediction > 0,
    }
    # Place and window are the structure's own, wherever a stray prediction lies.
    shown = {"truth": masks["truth"]} if masks["truth"].any() else masks
    center = plane_indices(volume.shape, shown)
    low, high = display_window(volume, shown, "auto" if volume.min() < AIR_HU else None)
    window = ((low + high) / 2, high - low)
    return overlay_figure(volume, masks, spacing, window, title, center, outlines={"truth"})


def overlay_panels(
    volume: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray | None,
    spacing: Sequence[float],
) -> list[tuple[str, str, int]]:
    """The planes of `case_figure`, each as a picture of its own.

    Returns:
        [(plane's name, data URI of a PNG, its width in pixels)], in the order of
        `datasets.volume.overlay.PLANES`; the three are at one scale.
    """
    figure = case_figure(volume, truth, prediction, spacing)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())
    panels = []
    for plane, axes in zip(PLANES, figure.axes, strict=True):
        box = axes.get_tightbbox(canvas.get_renderer())
        assert box is not None, "only hidden axes have none"
        rows = slice(max(0, picture.shape[0] - round(box.y1) - 3), picture.shape[0] - round(box.y0) + 3)
        columns = slice(max(0, round(box.x0) - 3), round(box.x1) + 3)
        section = picture[rows, columns, :3]
        panels.append((plane.name, png_uri(section), section.shape[1]))
    return panels


def png_uri(picture: np.ndarray) -> str:
    """Data URI of an RGB picture (rows, columns, 3) uint8, as a PNG of 256 colours: a quarter of the size, and a CT in
    gray with two mask colours loses nothing to see."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).quantize(256, dither=Image.Dither.NONE).save(
        buffer, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
