"""Draws assets/architecture.png, the overview in the README:  python assets/make_architecture_figure.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, VISION, LANGUAGE, OUTPUT, INPUT = "#1f2933", "#cfe3f7", "#fbe3c4", "#d5efd8", "#eceff3"
# name: (centre x, centre y, width, height, colour, title, detail)
BOXES = {
    "ct": (1.1, 3.0, 1.8, 1.2, INPUT, "CT volume", "NIfTI · NRRD · MHA\nDICOM · npy · npz"),
    "patches": (3.5, 3.0, 1.9, 1.2, INPUT, "any-resolution\npatches", "z × x × y crops"),
    "resnet": (6.0, 4.25, 2.0, 1.0, VISION, "2D ResNet", "every slice"),
    "transformers": (6.0, 2.55, 2.0, 1.3, VISION, "ViT", "spatial, then along\nthe slices"),
    "projector": (8.7, 2.55, 1.7, 0.9, VISION, "projector", "tokens (slice, x, y)"),
    "question": (8.7, 0.85, 1.9, 0.9, INPUT, "question", "chat template"),
    "llm": (11.3, 1.7, 2.0, 2.2, LANGUAGE, "language model", "Qwen2-VL or any\ncausal LM\n3D rotary positions"),
    "decoder": (11.3, 4.5, 2.2, 1.2, VISION, "mask decoder", "UNETR blocks ×\nquery transformer"),
    "mask": (14.4, 4.5, 1.9, 1.0, OUTPUT, "masks", "on the CT's own grid"),
    "confidence": (14.4, 2.75, 1.9, 1.0, OUTPUT, "confidences", "one head a disease"),
    "text": (14.4, 1.0, 1.9, 1.0, OUTPUT, "text", "answers, choices,\nreports"),
}
# (from, to, label, curvature)
ARROWS = [
    ("ct", "patches", "", 0),
    ("patches", "resnet", "", 0),
    ("resnet", "transformers", "slice vectors", 0),
    ("transformers", "projector", "", 0),
    ("projector", "llm", "", 0),
    ("question", "llm", "", 0),
    ("resnet", "decoder", "feature maps, encoded once", 0),
    ("llm", "decoder", "<SEG>", 0),
    ("llm", "confidence", "<disease_\nconfidence>", 0),
    ("llm", "text", "", 0),
    ("decoder", "mask", "", 0),
]


def edge(box: tuple, towards: tuple) -> tuple[float, float]:
    """Where the line from a box's centre to another's leaves the box."""
    x, y, width, height = box[:4]
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(width / 2 / abs(dx) if dx else 1e9, height / 2 / abs(dy) if dy else 1e9)
    return x + dx * scale, y + dy * scale


def main() -> None:
    """Write the figure."""
    figure = Figure(figsize=(13.5, 4.9), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 15.5)
    axes.set_ylim(0.1, 5.4)
    axes.axis("off")
    for x, y, width, height, colour, title, detail in BOXES.values():
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(
            FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.12", fc=colour, ec=INK, lw=1.1)
        )
        lines = title.count("\n") + 1
        shift = 0.16 + 0.1 * detail.count("\n") if detail else 0
        axes.text(x, y + shift, title, ha="center", va="center", fontsize=12, weight="bold", color=INK)
        axes.text(x, y - 0.1 - 0.13 * lines, detail, ha="center", va="center", fontsize=9, color=INK)
    for start, end, label, curvature in ARROWS:
        a, b = edge(BOXES[start], BOXES[end]), edge(BOXES[end], BOXES[start])
        axes.add_patch(
            FancyArrowPatch(
                a, b, arrowstyle="-|>", mutation_scale=14, lw=1.3, color=INK, connectionstyle=f"arc3,rad={curvature}"
            )
        )
        if label:
            axes.text(
                (a[0] + b[0]) / 2,
                (a[1] + b[1]) / 2 + 0.02,
                label,
                ha="center",
                va="center",
                fontsize=9,
                color=INK,
                bbox={"fc": "white", "ec": "none", "pad": 1.5},
            )
    figure.patch.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(Path(__file__).with_name("architecture.png"))


if __name__ == "__main__":
    main()
