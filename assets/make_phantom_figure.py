"""Draw assets/phantom.png: one phantom CT in three planes with its organ masks, and eight of its findings.

python assets/make_phantom_figure.py
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from datasets.phantom.anatomy import STRUCTURES  # noqa: E402
from datasets.phantom.case import CaseOptions, PhantomCase, build_case  # noqa: E402
from datasets.phantom.lesions import LESIONS  # noqa: E402

FINE = CaseOptions(
    body_scale=(0.74, 0.78), in_plane=(0.9, 1.0), between=(1.5, 1.6), max_voxels=2e7, orientations=("RAS",)
)
SOFT, LUNG = (-160, 300), (-1050, 250)  # HU windows
SHOWN = ("heart", "aorta", "liver", "spleen", "left kidney", "right kidney", "left lung", "right lung", "spine", "ribs")
FINDINGS = {
    "Lung nodule": LUNG,
    "Pleural effusion": SOFT,
    "Consolidation": LUNG,
    "Emphysema": LUNG,
    "Pericardial effusion": SOFT,
    "Arterial wall calcification": SOFT,
    "Hiatal hernia": SOFT,
    "Lung opacity": LUNG,
}
COLOURS = dict(
    zip(
        SHOWN,
        ("#e6550d", "#ffd92f", "#8c564b", "#9467bd", "#17becf", "#1f77b4", "#2ca02c", "#98df8a", "#f7b6d2", "#c7c7c7"),
        strict=True,
    )
)


def draw(axes: Axes, plane: np.ndarray, window: tuple[int, int], aspect: float) -> None:
    """Show one plane (right-left or front-back, then vertical) as radiologists do: the patient's right on the left."""
    axes.imshow(
        plane.T[::-1, ::-1], cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bilinear"
    )
    axes.set_axis_off()


def outline(axes: Axes, mask: np.ndarray, colour: tuple | str, fill: float = 0.0) -> None:
    """Draw the border of a mask of the same plane, and tint its inside."""
    flipped = mask.T[::-1, ::-1].astype(float)
    if not flipped.any():
        return
    if fill:
        axes.contourf(flipped, [0.5, 1.5], colors=[colour], alpha=fill)
    axes.contour(flipped, [0.5], colors=[colour], linewidths=0.8)


def centre_of(mask: np.ndarray) -> tuple[int, int, int]:
    """The index along each axis where the mask is largest."""
    x, y, z = (int(np.argmax(mask.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    return x, y, z


def spacing_of(case: PhantomCase) -> np.ndarray:
    """Spacing in mm of a case stored as RAS."""
    return np.abs(np.diag(case.affine)[:3])


def main() -> None:
    """Write the figure."""
    case = build_case(2, 7, FINE, ["Lung nodule", "Pleural effusion", "Arterial wall calcification"])
    spacing = spacing_of(case)
    _, y, _ = centre_of(case.structures == STRUCTURES["heart"])
    _, _, z = centre_of(case.structures == STRUCTURES["spleen"])
    tall_x, tall_y = spacing[2] / spacing[0], spacing[2] / spacing[1]
    figure = plt.figure(figsize=(11, 8.1), facecolor="white")
    grid = figure.add_gridspec(3, 4, height_ratios=(1.25, 1, 1), hspace=0.12, wspace=0.04)
    x_lung = centre_of(case.lesions == LESIONS["Lung nodule"])[0]
    views = (
        ("axial", lambda a: a[:, :, z], SOFT, 1.0, True),
        ("coronal", lambda a: a[:, y], SOFT, tall_x, True),
        ("coronal, lung window", lambda a: a[:, y - 12], LUNG, tall_x, False),
        ("sagittal, lung window", lambda a: a[x_lung], LUNG, tall_y, False),
    )
    for column, (title, cut, window, aspect, organs) in enumerate(views):
        axes = figure.add_subplot(grid[0, column])
        draw(axes, cut(case.ct), window, aspect)
        axes.set_title(title, fontsize=9)
        if organs:
            for name in SHOWN:
                outline(axes, cut(case.structures) == STRUCTURES[name], COLOURS[name], fill=0.3)
        else:
            outline(axes, cut(case.lesions) > 0, "red")
    for place, (name, window) in enumerate(FINDINGS.items()):
        case = build_case(31, 7 + place, FINE, [name])
        mask = case.lesions == LESIONS[name]
        height = centre_of(mask)[2]
        axes = figure.add_subplot(grid[1 + place // 4, place % 4])
        draw(axes, case.ct[:, :, height], window, 1.0)
        outline(axes, mask[:, :, height], "red")
        finding = case.findings[name]
        side = {"left": "left", "right": "right", "both": "both sides"}.get(finding.side, "")
        detail = ", ".join(text for text in (side, finding.grade) if text)
        axes.set_title(f"{name} ({detail})" if detail else name, fontsize=9)
    handles = [Patch(color=COLOURS[name], label=name) for name in SHOWN] + [Patch(color="red", label="finding")]
    figure.legend(handles=handles, loc="lower center", ncol=11, fontsize=7.5, frameon=False, handlelength=1)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.965, bottom=0.04)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=84)
    Image.open(buffer).convert("RGB").quantize(256, kmeans=1).save(HERE / "phantom.png", optimize=True)


if __name__ == "__main__":
    main()
