"""Muscles that stand out from their surroundings: each in a sheath of fat."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.frame import SPINE
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.shapes import Ellipsoid, Tube

# height, distance from the midline, and how far behind or before the vertebral bodies; mm
BACK = ((90, 22, 36), (20, 24, 44), (-60, 26, 42), (-200, 30, 44), (-330, 40, 47), (-440, 38, 48), (-510, 22, 36))
LOINS = ((-285, 26, -4), (-340, 36, -2), (-420, 50, 8), (-470, 66, 34))
SHEATH = 2.2  # mm of fat


def paint_muscles(canvas: Canvas, tissues: Tissues) -> None:
    """Muscles of neck, back, chest and pelvis in sheaths of fat, which part them from their surroundings."""
    for side, name in ((-1.0, "left"), (1.0, "right")):
        back = [(side * width, SPINE.at(z) - behind, z) for z, width, behind in BACK]
        radii = (13, 16, 17, 20, 25, 25, 8)
        _sheathed(canvas, Tube(np.array(back, float), radii), tissues, f"{name} autochthon")
        psoas = [(side * width, SPINE.at(z) + before, z) for z, width, before in LOINS]
        psoas += [(side * 88, 40, -530), (side * 92, 20, -590)]
        _sheathed(canvas, Tube(np.array(psoas, float), (7, 15, 22, 22, 18, 12)), tissues, f"{name} iliopsoas")
        for points, radius in (
            ([[side * 50, 6, 128], [side * 40, 40, 50], [side * 16, 44, 0]], (8, 10, 7)),  # sternocleidomastoid
            ([[side * 18, -62, 100], [side * 40, -76, 40], [side * 110, -70, -8]], (14, 18, 12)),  # trapezius
            ([[side * 48, 48, 70], [side * 58, 42, 130]], (9, 8)),  # masseter
        ):
            _sheathed(canvas, Tube(np.array(points, float), radius), tissues, None)
        for centre, axes, angles in (
            ((side * 82, -98, -530), (52, 17, 70), (0, 0, side * 32)),  # gluteus maximus
            ((side * 124, -20, -470), (15, 48, 60), (0, side * -8, side * 22)),  # gluteus medius
            ((side * 92, 74, -70), (52, 11, 42), (0, 0, side * -22)),  # pectoral
            ((side * 136, -62, -150), (10, 42, 110), (0, 0, side * 30)),  # latissimus
        ):
            _sheathed(canvas, Ellipsoid(centre, axes, angles), tissues, None)


def _sheathed(canvas: Canvas, shape: Ellipsoid | Tube, tissues: Tissues, label: str | None) -> None:
    low, high = shape.bounds
    box = canvas.box((low - 4, high + 4))
    if box is None:
        return
    value = shape(*canvas.at(box))
    canvas.paint(lambda x, y, z: value - np.float32(SHEATH), tissues["fat"], box=box)
    canvas.paint(lambda x, y, z: value, tissues["muscle"] + 4, label, box=box)
