"""Lung nodules, which are counted, measured and told apart by the zone that they lie in."""

from __future__ import annotations

import numpy as np

from datasets.phantom.anatomy import Anatomy
from datasets.phantom.lesions import (
    SITE_VALUES,
    Finding,
    any_zone,
    free_place,
    joint_side,
    outside,
    paint_in_lung,
    sides_of,
    zone,
)
from datasets.phantom.scene import Scene
from datasets.phantom.shapes import Ellipsoid

NODULE_SIZES = {"small": (28, 32), "medium": (42, 47), "large": (58, 68)}
"""Diameters in the standard adult, mm: a size is told by the body round it, which is all that an encoder is shown."""
NODULE_GAP = 16.0
"""Least distance between two nodules' surfaces in the standard adult, mm, where there is room: three voxels of the tiny
crop, so that two nodules are seen as two."""


def lung_nodule(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """One to four round nodules with a calcified core, as of granulomas; the largest has one of three sizes."""
    number = int(rng.integers(1, 5))
    side = str(rng.choice(["left", "right", "both"] if number > 1 else ["left", "right"]))
    ranges, scale = list(NODULE_SIZES.values()), scene.pose.mean_scale
    top = int(rng.integers(3))
    placed: list[tuple[float, str, str]] = []
    centres: list[np.ndarray] = []
    for turn in range(number):
        one = sides_of(side)[turn % len(sides_of(side))]
        diameter = rng.uniform(*ranges[top if turn == 0 else int(rng.integers(top + 1))])
        if turn:
            diameter = min(diameter, 0.8 * placed[0][0])  # so that it is seen which one is the largest
        balls = [(other, (diameter + size) / 2 + NODULE_GAP) for other, (size, *_) in zip(centres, placed, strict=True)]
        centre, room = free_place(scene, rng, one, diameter * scale / 2 + 2, outside(balls, any_zone(rng)))
        fits = max((2 * room - 5) / scale, 12.0)  # a gap that the search grid cannot miss
        if diameter > fits:  # never between two sizes
            diameter = max((min(high, fits) for low, high in ranges if low <= fits), default=fits)
        axes = diameter * scale / 2 / scene.pose.scale
        site = SITE_VALUES["Lung nodule"][f"{one} {zone(centre[2])}"]
        paint_in_lung(scene, one, "Lung nodule", Ellipsoid(centre, axes), rng.uniform(30, 70), site=site)
        paint_in_lung(scene, one, "Lung nodule", Ellipsoid(centre, 0.75 * axes), rng.uniform(1000, 1200), site=site)
        placed.append((diameter, one, zone(centre[2])))
        centres.append(centre)
    size, one, place = max(placed)
    grade = next(name for name, (_, high) in NODULE_SIZES.items() if size <= high)
    side, sites = joint_side([p[1] for p in placed]), sorted({f"{p[1]} {p[2]}" for p in placed})
    return Finding("Lung nodule", side, number, size * scale, f"{one} {place}", grade, sites=sites)
