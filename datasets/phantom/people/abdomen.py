"""Organs of abdomen and pelvis: liver, spleen, kidneys, pancreas, gallbladder, stomach, bowel, bladder."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.canvas import Box, Canvas
from datasets.phantom.people.chest import dome, front_of_spine
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.people.placing import Variation
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.scene import AIR_HU
from datasets.phantom.shapes import Ellipsoid, Tube, smooth_max

GAS = AIR_HU + 20


def paint_bowel(canvas: Canvas, tissues: Tissues, vary: Variation, textured: bool) -> None:
    """Loops of small bowel, the frame of the colon and the rectum, with gas and stool where ``textured``."""
    rng = vary.rng
    for _ in range(int(rng.integers(10, 24))):
        start = np.array([rng.uniform(-70, 70), rng.uniform(0, 66), rng.uniform(-510, -345)])
        steps = rng.normal(0, 1, (3, 3)) * (26, 14, 22)
        points = np.vstack([start, start + np.cumsum(steps, axis=0)])
        points[:, 1] = np.clip(points[:, 1], -5, 72)
        points[:, 0] = np.clip(points[:, 0], -88, 88)
        loop = Tube(points, rng.uniform(9, 14, 4))
        canvas.paint(loop, tissues["bowel"] + rng.normal(0, 8), "small bowel")
        if textured and rng.random() < 0.3:
            top = Tube(points[:2] + (0, 3, 0), (5, 5))
            canvas.paint(top, GAS, "small bowel", within="small bowel")
    colon = [
        [[92, -8, -470], [96, -16, -400], [90, -2, -345]],
        [[90, 0, -345], [55, 56, -352], [0, 74, -372], [-50, 62, -340], [-88, 6, -300]],
        [[-96, -10, -300], [-104, -24, -380], [-98, -10, -455], [-62, 18, -500]],
        [[-60, 16, -500], [-20, -8, -490], [8, -48, -512], [0, -62, -548], [0, -66, -610]],
    ]
    for part in colon:
        _paint_colon(canvas, vary.tube(part, np.full(len(part), rng.uniform(14, 23)), 7), tissues, rng, textured)


def _paint_colon(canvas: Canvas, tube: Tube, tissues: Tissues, rng: np.random.Generator, textured: bool) -> None:
    canvas.paint(tube, tissues["bowel"], "colon")
    if not textured:
        return
    box = canvas.box(tube.bounds)
    if box is None:
        return
    value = tube(*canvas.at(box)) + np.float32(3.5)
    y = canvas.y[box]
    speckle = smooth_field(value.shape, 7.0 / canvas.spacing, rng)
    filled = rng.random()
    level = np.float32(np.mean([point[1] for point in tube.points]) + rng.uniform(-10, 25))
    gas = np.clip(speckle * 2 - rng.uniform(-0.5, 2.5), 0, 1) if filled < 0.6 else (y > level).astype(np.float32)
    content = np.float32(tissues["stool"]) + speckle * 60
    content = content + gas * (np.float32(GAS) - content)
    canvas.paint(lambda *_: value, lambda *_: content, "colon", within="colon", box=box)


def paint_stomach(canvas: Canvas, tissues: Tissues, vary: Variation, textured: bool) -> None:
    """Stomach with liquid and a bubble of gas, duodenum, pancreas."""
    stomach = vary.ellipsoid((-52, 34, -278), (36, 36, 52), (0, 22, 24), 7, 0.22)
    canvas.paint(stomach, tissues["bowel"] + 15, "stomach")
    outlet = vary.tube([[-36, 48, -316], [0, 52, -326], [24, 40, -318]], [20, 15, 10], 4)
    canvas.paint(outlet, tissues["bowel"] + 10, "stomach")
    lumen = stomach.grown(-5)
    canvas.paint(lumen, tissues["stomach"], "stomach", within="stomach")
    if textured:
        level = np.float32(stomach.centre[1] + vary.rng.uniform(-10, 30))

        def bubble(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
            return np.maximum(lumen(x, y, z), level - y)

        canvas.paint(bubble, GAS, "stomach", within="stomach", bounds=lumen.bounds)
    loop: list[list[float]] = [[28, 36, -318], [46, 20, -326], [48, 8, -372], [8, front_of_spine(-380, 26), -384]]
    canvas.paint(vary.tube(loop, [11, 11, 11, 10]), tissues["bowel"], "small bowel")  # duodenum
    gland: list[list[float]] = [[38, 18, -340], [28, 24, -318], [-10, front_of_spine(-306, 28), -306], [-70, -14, -288]]
    canvas.paint(vary.tube(gland, [13, 12, 9, 9]), tissues["pancreas"], "pancreas")


def paint_upper_abdomen(
    canvas: Canvas, inside: np.ndarray, tissues: Tissues, vary: Variation, domes: dict[str, float]
) -> None:
    """Spleen, kidneys with adrenal glands, liver with gallbladder, below the diaphragm."""
    rng = vary.rng

    def under(box: Box, value: np.ndarray, side: float) -> np.ndarray:
        x, y, z = canvas.at(box)
        height = domes["left" if side < 0 else "right"] - 1.5
        value = smooth_max(value, inside[box] + 1.5, 4.0)
        return smooth_max(value, z - dome(height, side, x, y), 3.0)

    for side, name in ((-1.0, "left"), (1.0, "right")):
        lower = -322 if side < 0 else -334
        kidney = vary.ellipsoid(
            (side * 64, front_of_spine(lower, -28), lower), (27, 25, 54), (10, side * -10, side * -24), 5
        )
        canvas.paint(kidney.grown(rng.uniform(3, 14)), tissues["fat"])
        canvas.paint(kidney, tissues["kidney"], f"{name} kidney")
        middle = np.asarray(kidney.centre)
        canvas.paint(kidney.grown(-9), tissues["kidney"] * 0.8 + 4, f"{name} kidney", within=f"{name} kidney")
        canvas.paint(Ellipsoid(middle + (-side * 14, 6, 0), (12, 11, 22), kidney.angles), tissues["fat"])
        canvas.paint(Ellipsoid(middle + (-side * 12, 5, 0), (6, 6, 13), kidney.angles), tissues["urine"] + 5)
        if vary.chance(0.15):
            canvas.paint(vary.ellipsoid(middle + (side * 20, 0, rng.uniform(-35, 35)), [rng.uniform(8, 20)] * 3), 8.0)
        for tilt in (-1, 1):
            gland = [
                [side * 34, front_of_spine(-280, -6), -276],
                [side * (38 + 6 * tilt), front_of_spine(-285, -18), -296],
            ]
            canvas.paint(vary.tube(gland, [3.5, 3], 2), tissues["pancreas"])
    spleen = vary.ellipsoid((-104, -36, -276), (28, 46, 52), (-12, 12, 8), 6, 0.2)
    if (box := canvas.box(spleen.bounds)) is not None:
        value = under(box, spleen(*canvas.at(box)), -1.0)
        canvas.paint(lambda *_: value, tissues["spleen"], "spleen", box=box, keep=("left kidney",))
    right = vary.ellipsoid((70, 4, -282), (78, 92, 82), (0, 0, 0), 7, 0.1)
    left = vary.ellipsoid((4, 46, -262), (68, 40, 40), (0, 14, 0), 8, 0.16)
    bounds = (np.minimum(right.bounds[0], left.bounds[0]), np.maximum(right.bounds[1], left.bounds[1]))
    if (box := canvas.box(bounds)) is not None:
        x, y, z = canvas.at(box)
        low_face = (
            np.float32(-330) + np.float32(0.55) * (np.float32(110) - x) - np.float32(0.2) * (y - 20)
        )  # slopes up to the left
        main = smooth_max(right(x, y, z), np.minimum(low_face, np.float32(-300)) - z, 20.0)
        value = under(box, -smooth_max(-main, -left(x, y, z), 12.0), 1.0)
        canvas.paint(lambda *_: value, tissues["liver"], "liver", box=box,
                     keep=("right kidney", "aorta", "spleen", "spine"))  # fmt: skip
        _paint_liver_vessels(canvas, tissues, vary)
    if not vary.chance(0.12):
        gallbladder = vary.ellipsoid((58, 58, -334), (14, 18, 27), (30, 0, 0), 5, 0.25)
        canvas.paint(gallbladder, tissues["bile"], "gallbladder")
    portal = vary.tube([[14, 16, -308], [26, 22, -290], [48, 20, -280]], [6.5, 7, 6])
    canvas.paint(portal, tissues["venous blood"], clear=False)


def _paint_liver_vessels(canvas: Canvas, tissues: Tissues, vary: Variation) -> None:
    for _ in range(7):
        root = np.array([30, 8, -262]) + vary.rng.normal(0, 5, 3)
        way = np.array([vary.rng.uniform(0.2, 1), vary.rng.normal(0, 0.6), vary.rng.normal(-0.2, 0.5)])
        tip = root + way / np.linalg.norm(way) * vary.rng.uniform(50, 90)
        vein = Tube(np.stack([root, tip]), (5, 2))
        canvas.paint(vein, tissues["venous blood"] * 0.5 + tissues["liver"] * 0.5, "liver", within="liver")


def paint_pelvic_organs(canvas: Canvas, tissues: Tissues, vary: Variation, female: bool) -> None:
    """Bladder of any filling, and prostate or uterus."""
    fill = 1 + vary.amount * vary.rng.uniform(-0.45, 0.5)
    organ = vary.ellipsoid((0, 2, -530), (26, 30, 24)) if female else vary.ellipsoid((0, 6, -590), (24, 18, 18))
    canvas.paint(organ, tissues["pelvic organs"])
    bladder = vary.ellipsoid((0, 30, -556 + 12 * fill), (38 * fill, 30 * fill**0.6, 28 * fill), (0, 0, 0), 4)
    canvas.paint(bladder.grown(3), tissues["pelvic organs"], "urinary bladder")
    canvas.paint(bladder, tissues["urine"], "urinary bladder", within="urinary bladder")
