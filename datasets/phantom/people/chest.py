"""Organs of the chest: lungs with vessels, heart, great vessels, airways, esophagus."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.canvas import Box, Canvas
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.people.frame import BODY_DEPTH, SPINE
from datasets.phantom.people.placing import Variation
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.scene import AIR_HU
from datasets.phantom.shapes import Tube, smooth_max

SIDES = ((-1.0, "left"), (1.0, "right"))


def front_of_spine(z: float, beyond: float) -> float:
    """y of what lies ``beyond`` mm before the vertebral bodies."""
    return SPINE.at(z) + BODY_DEPTH.at(z) + beyond


def diaphragm(vary: Variation) -> dict[str, float]:
    """Height of the two domes."""
    breath = vary.amount * vary.rng.normal(0, 14)
    return {"left": -228 + breath + vary.amount * vary.rng.normal(0, 5), "right": -214 + breath}


def dome(height: float, side: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the diaphragm over a place: it falls off most at the back."""
    u, v = (x - np.float32(side * 66)) / 72, (y - np.float32(16)) / 95
    return np.float32(height) - 30 * u * u - 62 * v * v


def paint_lungs(
    canvas: Canvas, inside: np.ndarray, tissues: Tissues, vary: Variation, domes: dict[str, float], textured: bool
) -> None:
    """Lungs between ribs, mediastinum and diaphragm; with vessels and denser tissue at the back where ``textured``."""
    middle = np.float32(16 + 3 * vary.amount * vary.rng.standard_normal())
    gradient = np.float32(-0.4 * vary.rng.uniform(0, 1.6) if textured else 0)
    for side, name in SIDES:
        low, high = np.array([0.0, -100, -330]), np.array([140.0, 98, 16])
        box = canvas.box((low * (side, 1, 1), high) if side > 0 else (np.array([-140.0, -100, -330]), high * (0, 1, 1)))
        if box is None:
            continue
        x, y, z = canvas.at(box)
        hilum = np.float32(10) * np.exp(-((z + 150) ** 2) / 3000)
        beside = middle + hilum - np.float32(side) * x
        value = smooth_max(inside[box] + 1.5, beside, 16.0)
        value = np.maximum(value, dome(domes[name], side, x, y) - z)
        hu = tissues["lung"] + gradient * y
        canvas.paint(lambda *_, value=value: value, hu, f"{name} lung", box=box)
        if textured:
            _paint_lung_vessels(canvas, box, value, tissues, vary.rng, name)


def _paint_lung_vessels(
    canvas: Canvas, box: Box, value: np.ndarray, tissues: Tissues, rng: np.random.Generator, name: str
) -> None:
    """Vessels where two random fields are both near zero, which is on curves; they are denser towards the middle."""
    shape, steps = value.shape, 15.0 / canvas.spacing
    first, second = (smooth_field(shape, steps, rng) for _ in range(2))
    first *= first
    second *= second
    first += second
    first = np.sqrt(first, out=first)
    x = np.abs(canvas.x[box])
    width = np.clip(np.float32(0.34) - (x - 30) * np.float32(0.0022), 0.08, 0.34)  # of the curve in the field's units
    share = np.clip((width - first) / np.float32(0.2) + 0.3, 0, 1) * canvas.share(value + 4)
    share *= np.float32(0.75)
    target = canvas.hu[box]
    target += share * (np.float32(tissues["venous blood"]) - target)


def paint_airways(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    """Trachea and main bronchi, and the esophagus behind them."""
    top = vary.tube([[0, 33, 14], [1, 22, -20], [3, -2, -70], [3, -14, -112]], [8.5, 8.5, 8.5, 9], 1.5)
    fork = top.points[-1].tolist()
    branches = [vary.tube([fork, [fork[0] + s * 36, fork[1] - 2, -140]], [7.5, 6], 1) for s in (-1, 1)]
    for tube in (top, *branches):
        canvas.paint(Tube(tube.points, np.asarray(tube.radii) + 2.2), tissues["esophagus"])
    gullet: list[list[float]] = [
        [-2, 20, 14],
        [-4, 4, -20],
        *([-6, front_of_spine(z, 9), z] for z in (-60, -112, -180)),
        [-16, 0, -246],
    ]
    esophagus = vary.tube(gullet, [7.5, 8, 8, 8, 8, 9], 1.5)
    canvas.paint(esophagus, tissues["esophagus"], "esophagus")
    if vary.chance(0.6):
        start = int(vary.rng.integers(0, 4))
        canvas.paint(Tube(esophagus.points[start : start + 2], (3, 3)), -500.0, "esophagus", within="esophagus")
    for tube in (top, *branches):
        canvas.paint(tube, AIR_HU + 15, "trachea")


def paint_heart(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    """Heart with its chambers in a coat of fat, and the pulmonary artery."""
    heart = vary.ellipsoid((-20, 26, -178), (64, 44, 50), (0, 16, -10), 5)
    canvas.paint(heart.grown(4), tissues["fat"])
    canvas.paint(heart, tissues["heart muscle"], "heart")
    a, b, c = heart.axes
    chambers = (
        (-0.42, -0.22, -0.12, 0.42, "blood"),
        (0.05, 0.42, -0.15, 0.40, "venous blood"),
        (0.48, -0.05, 0.1, 0.36, "venous blood"),
        (-0.1, -0.5, 0.35, 0.34, "blood"),
    )
    for u, v, w, size, blood in chambers:
        place = np.asarray(heart.centre) + (u * a, v * b, w * c)
        chamber = vary.ellipsoid(place, (size * a, size * b * 1.1, size * c * 1.3), (0, 15, -30), 2)
        canvas.paint(chamber, tissues[blood], "heart", within="heart")
    for points, radii in (
        ([[-16, 34, -140], [-16, 10, -124], [-38, -4, -134]], [14, 13, 9]),
        ([[-14, 12, -126], [14, 0, -132], [40, -4, -138]], [12, 10, 8]),
    ):
        canvas.paint(vary.tube(points, radii, 2), tissues["venous blood"])


def paint_great_vessels(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    """Venae cavae, then the aorta from the heart over the arch to its fork, and the arteries of the pelvis."""
    venous = tissues["venous blood"]
    superior = vary.tube([[24, 20, -40], [26, 16, -90], [26, 16, -160]], [8, 9, 9], 2)
    canvas.paint(superior, venous)
    canvas.paint(vary.tube([[-28, 30, -18], [0, 30, -50], [24, 20, -70]], [7, 7, 8], 2), venous)
    heights = (-405, -360, -310, -265, -225)
    lower = [[20, front_of_spine(z, 11), z] for z in heights] + [[24, 6, -205]]
    cava = vary.tube(lower, [11, 11, 12, 12, 12, 12], 2)
    canvas.paint(cava, venous, "inferior vena cava", keep=("liver",))
    turn = np.deg2rad(np.linspace(0, 180, 7))
    start, end = np.array([12.0, 22, -112]), np.array([-20.0, SPINE.at(-112) + 22, -112])
    arch = (start + end) / 2 + np.cos(turn)[:, None] * (start - end) / 2 + np.sin(turn)[:, None] * (0, 0, 26)
    down = [[-20, front_of_spine(z, 4), z] for z in (-160, -220)]
    down += [[-8, front_of_spine(z, 11), z] for z in (-265, -310, -360, -402)]
    points = np.vstack([[[-6, 22, -168], [10, 26, -140]], arch, down])
    radii = np.interp(np.arange(len(points)), [0, 8, len(points) - 1], [15.5, 13, 8.5])
    aorta = vary.tube(points, radii, 1.2)
    canvas.paint(aorta, tissues["blood"], "aorta")
    if vary.chance(0.35):
        for point, radius in zip(aorta.points[-5:], aorta.radii[-5:], strict=True):  # chalk in the wall
            way = vary.rng.normal(0, 1, 2)
            place = point + (*(way / np.linalg.norm(way) * radius), 0)
            canvas.paint(Tube(np.array([place, place + (0, 0, 6)]), (1.8, 1.8)), 700.0, "aorta", within="aorta")
    fork = np.asarray(aorta.points[-1]).tolist()
    for side in (-1, 1):
        course = [
            fork,
            [side * 40, front_of_spine(-440, 20), -455],
            [side * 74, 36, -530],
            [side * 84, 58, -580],
            [side * 86, 60, -700],
        ]
        canvas.paint(vary.tube(course, [6, 5.5, 5, 4.5, 4.5], 1), tissues["blood"])
        beside = np.array(course) + (side * 2 + 8, -9, -4)
        canvas.paint(vary.tube(beside, [8, 7, 6, 6, 6], 1), venous)
