"""Pictures of a case for the page: the three planes with its masks, and the histogram of its values."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets.volume.overlay import PLANES, display_window, mask_colours, overlay_figure, plane_indices
from evaluation.audit.view import View
from evaluation.report.report_figures import ACCENT, GRID, MUTED, SECOND, png_uri

HU_SHOWN = (-1500.0, 2500.0)
LANDMARKS = {-1000.0: "air", 0.0: "water"}


def colours_of(view: View) -> dict[str, str]:
    """A CSS colour for each mask, as in the picture."""
    colours = mask_colours(len(view.masks))
    return {
        label: "#" + "".join(f"{round(255 * part):02x}" for part in colour)
        for label, colour in zip(view.masks, colours, strict=True)
    }


def planes_uri(view: View) -> str:
    """Axial, coronal and sagittal plane through the masks' centre, as the data URI of a PNG.

    Radiological display, with letters: the patient's left is on the right of the picture.
    """
    center = plane_indices(view.volume.shape, view.masks)
    low, high = display_window(view.volume, view.masks, "auto" if view.in_hu else None)
    window = ((low + high) / 2, high - low)
    if min(view.volume.shape) == 1:
        return _image_uri(view, window)
    figure = overlay_figure(view.volume, view.masks, view.spacing, window, center=center, legend=False)
    return _png(figure)


def _image_uri(view: View, window: tuple[float, float]) -> str:
    """A 2D image as it is looked at, without planes across it."""
    axis = int(np.argmin(view.volume.shape))
    plane = next(plane for plane in PLANES if plane.cut_axis == axis)
    section = plane.image(view.volume, 0)
    grey = np.clip((section - (window[0] - window[1] / 2)) / window[1], 0, 1)
    return png_uri(np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2))


def _png(figure: Figure) -> str:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png_uri(np.asarray(canvas.buffer_rgba())[..., :3])


def histogram_figure(view: View) -> Figure:
    """How often each value is, on a logarithmic scale; of a CT with air and water marked."""
    figure = Figure(figsize=(6.4, 1.5))
    axes = figure.add_axes((0.01, 0.22, 0.98, 0.74))
    low, high = HU_SHOWN if view.in_hu else (view.lowest, view.highest)
    counts, edges = np.histogram(np.clip(view.volume, low, high), bins=200, range=(low, max(high, low + 1e-6)))
    middles = (edges[:-1] + edges[1:]) / 2
    axes.fill_between(middles, np.log10(1 + counts), step="mid", color=ACCENT, alpha=0.35, linewidth=0)
    axes.plot(middles, np.log10(1 + counts), color=ACCENT, linewidth=1.0, drawstyle="steps-mid")
    for value, name in LANDMARKS.items() if view.in_hu else ():
        axes.axvline(value, color=SECOND, linewidth=1.0, linestyle=(0, (3, 2)))
        axes.text(value, axes.get_ylim()[1], f" {name}", color=SECOND, fontsize=8, va="top")
    axes.set_xlim(low, max(high, low + 1e-6))
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.tick_params(colors=MUTED, labelsize=8, length=2)
    axes.patch.set_visible(False)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(GRID)
    return figure
