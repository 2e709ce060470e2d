"""Head and neck: skull with brain and air spaces, jaws and teeth, glands, larynx, and the cord down to the waist."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.frame import CANAL
from datasets.phantom.people.placing import Variation
from datasets.phantom.people.skeleton import paint_bone
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.scene import AIR_HU
from datasets.phantom.shapes import Ellipsoid, Tube, smooth_max

AIR = AIR_HU + 10
JAW = "skull bone"  # the mandible is as dense
BRAIN = Ellipsoid((0, 4, 188), (66, 84, 68))
ARCH = np.array([[50, 34, 84], [48, 56, 75], [40, 82, 66], [24, 101, 60], [0, 108, 58]], float)  # of the lower jaw


def _mirrored(points: np.ndarray) -> np.ndarray:
    return np.vstack([points, points[-2::-1] * (-1, 1, 1)])


def paint_head(canvas: Canvas, tissues: Tissues, vary: Variation, layers: bool) -> None:
    """Everything above the neck."""
    low, high = np.array([-80.0, -100, 100]), np.array([80.0, 112, 280])
    box = canvas.box((low, high))
    if box is None:
        return
    x, y, z = canvas.at(box)
    # the base rises from the hindbrain to the forehead
    floor = np.float32(136) + np.float32(0.24) * np.clip(y + 40, 0, 130) - z
    thick = np.float32(7.5 + 1.5 * vary.amount * vary.rng.standard_normal())
    inner = -smooth_max(-BRAIN(x, y, z), -Ellipsoid((0, -40, 156), (52, 42, 34))(x, y, z), 8.0)
    inner = smooth_max(inner, floor - np.clip(-(y + 10), 0, 20), 8.0)
    paint_bone(canvas, lambda *_: inner - thick, tissues, "skull", (low, high), 2.8, "skull bone")
    _paint_face(canvas, tissues, vary, layers)
    canvas.paint(lambda *_: inner, tissues["fluid of the canal"] + 4, box=box)
    canvas.paint(lambda *_: inner + np.float32(3), tissues["brain"], "brain", box=box)
    for side in (-1, 1):
        ventricle = vary.tube([[side * 12, -20, 200], [side * 8, 22, 206]], [6, 7], 2)
        canvas.paint(ventricle, tissues["fluid of the canal"], "brain")


def _paint_face(canvas: Canvas, tissues: Tissues, vary: Variation, layers: bool) -> None:
    """Facial bones with their air spaces, orbits, ears."""
    for shape in (Ellipsoid((0, 70, 112), (38, 34, 24)), Ellipsoid((0, 40, 140), (44, 32, 12))):
        paint_bone(canvas, shape, tissues, "skull", shell=2.5)
    for side in (-1, 1):
        zygoma = [[side * 40, 78, 132], [side * 60, 62, 136], [side * 67, 36, 138], [side * 66, 8, 140]]
        paint_bone(canvas, Tube(np.array(zygoma, float), (9, 8, 5, 6)), tissues, "skull")
        rim = Ellipsoid((side * 33, 78, 156), (25, 22, 22))
        paint_bone(canvas, rim, tissues, "skull", shell=2.0)
        canvas.paint(Ellipsoid((side * 33, 80, 156), (21, 24, 19)), tissues["fat"])
        canvas.paint(Ellipsoid((side * 33, 86, 156), (12, 12, 12)), 18.0)
        paint_bone(canvas, Ellipsoid((side * 50, -14, 136), (17, 24, 20)), tissues, "skull", shell=4)
        if layers:
            for _ in range(6):  # cells of the mastoid
                place = np.array([side * 52, -20, 136]) + vary.rng.normal(0, 7, 3)
                canvas.paint(Ellipsoid(place, (4, 5, 5)), -600.0, "skull")
        canvas.paint(Tube(np.array([[side * 74, -2, 138], [side * 44, -2, 138.0]]), (4, 4)), AIR)
        canvas.paint(vary.ellipsoid((side * 28, 66, 122), (15, 18, 17)), AIR, clear=True)  # maxillary sinus
        paint_bone(canvas, Tube(np.array([[side * 12, 44, 122], [side * 15, 46, 96.0]]), (4, 3)), tissues, "skull")
    canvas.paint(vary.ellipsoid((0, 36, 143), (14, 13, 10)), AIR)  # sphenoid sinus
    canvas.paint(Ellipsoid((0, 68, 148), (11, 30, 12)), -550.0)  # ethmoid cells
    for side in (-1, 1):
        canvas.paint(vary.ellipsoid((side * 6.5, 76, 124), (4.5, 42, 18), (8, 0, 0), 1.5), -850.0)
    if vary.chance(0.8):
        canvas.paint(vary.ellipsoid((0, 92, 172), (18, 7, 9)), AIR)  # frontal sinus


def paint_jaws(canvas: Canvas, tissues: Tissues, vary: Variation) -> np.ndarray:
    """Mandible, teeth, tongue, mouth; gives the places (n, 3) of metal in teeth, mm of the standard adult."""
    drop = vary.amount * abs(vary.rng.normal(0, 5))  # an open mouth
    canvas.paint(vary.ellipsoid((0, 66, 86), (34, 40, 24)), tissues["muscle"])  # tongue
    if vary.chance(0.4):
        canvas.paint(vary.ellipsoid((0, 62, 102), (24, 34, 5)), AIR)
    level = ARCH * (0.93, 0.97, 0.25) + (0, -2, 62)
    rows = [(level + (0, 0, 26), "upper"), (level + (0, 0, 11 - drop), "lower")]
    metal = []
    missing = vary.amount * vary.rng.random() < 0.12
    for line, row in rows:
        line = _mirrored(line[1:])
        if row == "upper":
            paint_bone(canvas, Tube(line + (0, -2, 8), np.full(len(line), 8.0)), tissues, "skull")
        if not (row == "lower" and vary.chance(0.2)) or not missing:
            canvas.paint(Tube(line, np.full(len(line), 4.6)), tissues["teeth"])
        if vary.chance(0.35):
            metal += [line[i] for i in vary.rng.integers(0, len(line), int(vary.rng.integers(1, 4)))]
    jaw = _mirrored(ARCH) - (0, 0, drop)
    size = 1 + 0.1 * vary.amount * vary.rng.standard_normal()
    for lift, radius in ((-2.0, 7.0), (9.0, 6.0)):
        paint_bone(
            canvas, Tube(jaw + (0, 0, lift), np.full(len(jaw), radius * size)), tissues, "mandible", shell=4.2, hard=JAW
        )
    for side in (-1, 1):
        branch = np.array([[side * 50, 35, 80 - drop], [side * 51, 29, 100], [side * 52, 22, 122]])
        for shift in (-5.0, 5.0):
            paint_bone(canvas, Tube(branch + (0, shift, 0), (6.5, 6.0, 5.5)), tissues, "mandible", shell=4.2, hard=JAW)
        paint_bone(canvas, Ellipsoid((side * 52, 18, 124), (10, 6, 7)), tissues, "mandible", shell=3, hard=JAW)
    return np.array(metal).reshape(-1, 3)


def paint_neck(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    """Glands, vessels, throat, larynx and thyroid gland."""
    for side, name in ((-1, "left"), (1, "right")):
        parotid = vary.ellipsoid((side * 56, 9, 106), (11.5, 19, 27), (0, 0, side * -14), 3)
        canvas.paint(parotid, tissues["gland"], f"{name} parotid gland", keep=("mandible", "skull"))
        canvas.paint(vary.ellipsoid((side * 34, 56, 56), (10, 15, 14)), tissues["gland"] + 25, keep=("mandible",))
        carotid = [[side * 14, 22, -40], [side * 20, 20, 0], [side * 27, 12, 60], [side * 28, 8, 125]]
        canvas.paint(vary.tube(carotid, [5, 4.5, 4, 3]), tissues["blood"])
        jugular = [[side * 26, 26, -20], [side * 33, 18, 30], [side * 37, 4, 118]]
        canvas.paint(vary.tube(jugular, [7, 6.5, 5]), tissues["venous blood"])
        thyroid = vary.ellipsoid((side * 20, 28, 4), (10, 11, 22), (0, 0, 0), 2, 0.2)
        canvas.paint(thyroid, tissues["thyroid"], "thyroid")
    canvas.paint(Ellipsoid((0, 40, 8), (12, 5, 6)), tissues["thyroid"], "thyroid")
    hyoid = np.array([[-22, 34, 52], [-12, 54, 52], [12, 54, 52], [22, 34, 52]], float)
    paint_bone(canvas, Tube(hyoid, (3, 4, 4, 3)), tissues, None, shell=1.5)
    larynx = vary.ellipsoid((0, 36, 30), (18, 17, 18), (0, 0, 0), 2, 0.1)
    canvas.paint(larynx, tissues["larynx"], "larynx")
    cartilage = np.float32(tissues["cartilage"])

    def shell(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(larynx(x, y, z) + 3) - 2, np.maximum(np.float32(30) - y, np.abs(z - 30) - 15))

    canvas.paint(shell, cartilage, "larynx", bounds=larynx.bounds)
    throat = [[0, 40, 128], [0, 24, 112], [0, 22, 76], [0, 24, 52]]
    canvas.paint(vary.tube(throat, [9, 9, 8, 7], 2), AIR)
    glottis = [[0, 28, 52], [0, 33, 34], [0, 34, 28], [0, 33, 12]]
    canvas.paint(vary.tube(glottis, [7.5, 4.5, 5, 9], 1), AIR, "larynx", within="larynx")


def paint_cord(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    """Brainstem, and the spinal cord down to the first lumbar vertebra."""
    points = np.array([[0, CANAL.at(z) + 1, z] for z in (122, 106, 82, 50, 17, 0, -60, -135, -200, -250, -292)], float)
    size = 1 + 0.06 * vary.amount * vary.rng.standard_normal()
    cord = Tube(points, np.array([7.2, *[6.8] * 5, *[6.3] * 4, 5.5]) * size)
    canvas.paint(cord, tissues["cord"], "spinal cord")
    start = CANAL.at(122)
    stem = vary.tube([[0, start, 121], [0, start + 4, 136], [0, start + 14, 172]], [8, 12, 12], 0.8)
    low, high = stem.bounds
    pons = vary.ellipsoid((0, start + 15, 152), (18, 13, 13), (0, 0, 0), 1, 0.08)

    def both(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        joined: np.ndarray = np.minimum(stem(x, y, z), pons(x, y, z))
        return np.maximum(joined, np.maximum(121 - z, z - 176))

    canvas.paint(both, tissues["brainstem"], "brainstem", bounds=(low - 6, high + 6))
