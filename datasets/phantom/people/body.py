"""The outside of a person: trunk, head, legs and arms, with skin, the fat below it, and muscle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.features import Features
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.people.frame import (
    CAVITY_BACK,
    CAVITY_FRONT,
    CAVITY_HALF,
    FAT_SHARE,
    LEAN_BACK,
    LEAN_FRONT,
    LEAN_HALF,
    TRUNK_BOTTOM,
    TRUNK_TOP,
)
from datasets.phantom.people.sections import Section
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.shapes import Ellipsoid, Tube, smooth_max

Arms = Literal["absent", "beside", "raised"]
SKIN = 2.0  # mm
BLEND = 14.0  # mm over which parts of the body flow into each other


@dataclass(frozen=True)
class Build:
    """What a person is built like. fat: thickness at the abdomen, mm. muscle: how much the lean body is wider, mm."""

    fat: float
    muscle: float
    female: bool
    arms: Arms
    waves: tuple[tuple[float, float], ...]

    @classmethod
    def draw(cls, features: Features, rng: np.random.Generator) -> Build:
        """A person at random; the features that are off leave the middle of the range."""
        fat = float(np.clip(rng.gamma(2.6, 8.0), 4, 60))
        muscle = float(rng.normal(0, 4))
        female = bool(rng.random() < 0.5)
        arms: Arms = "absent"
        if features.arms:
            arms = ("absent", "beside", "raised")[int(rng.choice(3, p=(0.3, 0.4, 0.3)))]
        waves = tuple((float(rng.normal(0, s)), float(rng.uniform(0, 2 * np.pi))) for s in (0.022, 0.016, 0.012, 0.01))
        if not features.layers:
            return cls(14.0, 0.0, False, arms, ())
        return cls(fat, muscle, female, arms, waves)


def lean_trunk(build: Build, layers: bool) -> Section:
    """The trunk without its fat; a plain ellipse without layers."""
    half, front, back = LEAN_HALF + build.muscle, LEAN_FRONT + build.muscle, LEAN_BACK + -build.muscle
    return Section(half, front, back, TRUNK_BOTTOM, TRUNK_TOP, build.waves, square=layers)


def cavity(square: bool = True, bottom: float = -590.0) -> Section:
    """The space inside ribs and abdominal wall."""
    return Section(CAVITY_HALF, CAVITY_FRONT, CAVITY_BACK, bottom, 12.0, square=square)


def head_parts() -> list[Ellipsoid]:
    """Cranium, face, jaw and nose below the skin."""
    return [
        Ellipsoid((0, 4, 190), (75, 95, 83)),
        Ellipsoid((0, 50, 128), (64, 54, 62)),
        Ellipsoid((0, 50, 84), (57, 66, 36), (-8, 0, 0)),
        Ellipsoid((0, 100, 122), (13, 19, 21)),
    ]


def limb_parts(build: Build) -> list[Tube]:
    """Legs, and arms where they are in the picture."""
    limbs = [Tube(np.array([[s * 84, -8, -600], [s * 88, -6, -720.0]]), (80, 74)) for s in (-1.0, 1.0)]
    for points in (arm_points(build.arms, side) for side in (-1.0, 1.0)):
        if points is not None:
            limbs.append(Tube(points[:3], (44, 43, 34)))
            if len(points) > 3:
                limbs.append(Tube(points[2:], (34, 24)))
    return limbs


def arm_points(arms: Arms, side: float) -> np.ndarray | None:
    """Shoulder, middle of the upper arm, elbow, wrist (n, 3), mm; None for arms out of the picture."""
    if arms == "beside":
        points = [[168, -14, -42], [198, -20, -150], [214, -18, -330], [190, 30, -560]]
    elif arms == "raised":
        points = [[150, -8, -30], [172, 0, 60], [180, 10, 200], [90, 20, 380]]
    else:
        return None
    return np.array(points, float) * (side, 1, 1)


def paint_body(
    canvas: Canvas, build: Build, tissues: Tissues, features: Features, rng: np.random.Generator
) -> np.ndarray:
    """Paint skin, fat, muscle and the fat inside the trunk; gives the distance to the skin (mm, negative inside)."""
    value = lean_trunk(build, features.layers)(canvas.x, canvas.y, canvas.z, canvas.rows)
    fat = (FAT_SHARE * build.fat).take(canvas.rows)
    skin = value - fat
    lean = value
    covered: list[tuple[Ellipsoid | Tube, float]] = [(part, 4.0) for part in head_parts()]
    covered += [(limb, 0.45 * build.fat) for limb in limb_parts(build)]
    for part, cover in covered:
        low, high = part.bounds
        box = canvas.box((low - cover - BLEND, high + cover + BLEND))
        if box is not None:
            here = part(*canvas.at(box))
            skin[box] = _united(skin[box], here - np.float32(cover))
            lean[box] = _united(lean[box], here)
    if build.female and features.layers:
        for s in (-1, 1):
            breast = Ellipsoid((s * 76, 100, -165), (50 + build.fat * 0.4, 36 + build.fat * 0.5, 50))
            if (box := canvas.box(breast.bounds)) is not None:
                skin[box] = _united(skin[box], breast(*canvas.at(box)))
    everywhere = (slice(None),) * 3
    if not features.layers:
        canvas.paint(lambda x, y, z: skin, tissues["muscle"], box=everywhere)
        canvas.skin = skin
        return skin
    canvas.paint(lambda x, y, z: skin, tissues["skin"], box=everywhere)
    canvas.blend(canvas.share(skin + np.float32(SKIN)), tissues["fat"])
    planes = smooth_field(canvas.shape, 26 / canvas.spacing, rng)  # fat parts muscles: sheets where a field is zero
    fatness = np.float32(rng.uniform(0.10, 0.30) + 0.004 * build.fat) + 0.25 * np.clip(canvas.z / 40, 0, 1)
    sheets = np.clip((fatness - np.abs(planes)) / np.float32(0.25) + 0.2, 0, 1)
    canvas.blend(
        canvas.share(lean), tissues["muscle"] + sheets * np.float32(0.9 * (tissues["fat"] - tissues["muscle"]))
    )
    canvas.skin = skin
    return skin


def _united(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -smooth_max(-a, -b, BLEND)


def paint_cavity(canvas: Canvas, tissues: Tissues, layers: bool) -> np.ndarray | None:
    """Fill the trunk's inside with fat; gives its implicit function on the whole grid for organs to be cut by."""
    shape = cavity(layers)
    box = canvas.box(shape.bounds)
    if box is None:
        return None
    inside = np.full(canvas.shape, 50, np.float32)
    inside[box] = shape(*canvas.at(box), canvas.rows[box])
    if layers:
        canvas.paint(lambda x, y, z: inside[box], tissues["fat"], box=box)
    return inside
