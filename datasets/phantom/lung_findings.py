"""Findings in the lungs and the pleura.  `datasets.phantom.findings` says what every label means."""

from __future__ import annotations

from functools import reduce

import numpy as np

from datasets.phantom.anatomy import CHEST, SIGN, Anatomy
from datasets.phantom.lesions import (
    LESIONS,
    Finding,
    any_zone,
    draw_side,
    free_place,
    paint_in_lung,
    sides_of,
    zone,
)
from datasets.phantom.scene import AIR_HU, Scene
from datasets.phantom.shapes import Bounds, Ellipsoid, Implicit, Tube, rotation


def _lung_bounds(anatomy: Anatomy, side: str) -> Bounds:
    return anatomy.lung(side).bounds


def pleural_effusion(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Fluid at the back of the pleural cavity, deepest at the base, with a rim that rises along the chest wall."""
    side = draw_side(rng)
    grade = str(rng.choice(["small", "moderate", "large"]))
    low, high = {"small": (30, 36), "moderate": (48, 56), "large": (72, 86)}[grade]
    depth, hu = rng.uniform(low, high), rng.uniform(2, 14)
    for one in sides_of(side):
        level = np.float32(depth * rng.uniform(0.92, 1.0) - 94)

        def fluid(x: np.ndarray, y: np.ndarray, z: np.ndarray, level: np.float32 = level) -> np.ndarray:
            rim = 16 * (x / np.float32(CHEST[0])) ** 2
            return y - (level + rim - np.float32(0.16) * (z + 40))

        paint_in_lung(
            scene, one, "Pleural effusion", fluid, hu, structure=0, lung="fill", bounds=_lung_bounds(anatomy, one)
        )
    return Finding("Pleural effusion", side, len(sides_of(side)), depth * scene.pose.scale[1], grade=grade)


def mosaic_attenuation(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Sharply bordered patches of denser lung between patches of normal lung, in both lungs."""
    waves = 2 * np.pi / rng.uniform(54, 70, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)

    def patches(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        total: np.ndarray | np.float32 = np.float32(0.25)
        for u, wave, phase in zip((x + 0.4 * y, y - 0.4 * z, z + 0.4 * x), waves, phases, strict=True):
            total = total + np.sin(u * np.float32(wave) + np.float32(phase))
        return np.asarray(total)

    value = rng.uniform(-620, -580)  # well below ground glass, which may lie in it
    for one in ("left", "right"):
        paint_in_lung(
            scene, one, "Mosaic attenuation pattern", patches, value, strength=0.85, bounds=_lung_bounds(anatomy, one)
        )
    return Finding("Mosaic attenuation pattern", "both")


def septal_thickening(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """A net of thickened septa under the pleura of the lower two thirds of both lungs."""
    period, half = np.float32(rng.uniform(21, 26)), np.float32(1.8)
    shift = rng.uniform(0, 24, 3).astype(np.float32)

    def net(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        def lines(u: np.ndarray, v: np.ndarray, s: np.float32) -> np.ndarray:
            bend = 4 * np.sin((v + s) * np.float32(0.13))  # lobules are polygons, not bricks
            return np.abs(np.mod(u + bend + s, period) - period / 2)

        nearest = reduce(np.minimum, map(lines, (x + 0.35 * y, y - 0.35 * z, z + 0.35 * x), (y, z, x), shift))
        outer = -48 - anatomy.chest(x, y, z)
        return np.maximum(np.maximum(nearest - half, outer), z - 75)

    value = rng.uniform(-60, 20)
    for one in ("left", "right"):
        paint_in_lung(scene, one, "Interlobular septal thickening", net, value, bounds=_lung_bounds(anatomy, one))
    return Finding("Interlobular septal thickening", "both")


def emphysema(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Air pockets with walls in the upper zones."""
    side = draw_side(rng)
    grade = str(rng.choice(["mild", "severe"]))
    number = {"mild": 9, "severe": 22}[grade]
    scale = scene.pose.mean_scale
    largest = 0.0
    for one in sides_of(side):
        points, room = scene.free_sites([1 if one == "left" else 2])
        upper = (points[:, 2] > ZONE_FLOOR) & (room > 4)
        points = points[upper] if upper.any() else points
        for _ in range(number):
            centre, radius = points[rng.integers(len(points))], rng.uniform(14, 19)
            largest = max(largest, 2 * radius)
            axes = radius / scale * rng.uniform(0.85, 1.15, 3)
            pocket = Ellipsoid(centre, axes)
            paint_in_lung(scene, one, "Emphysema", pocket.grown(4.0), -300.0)
            paint_in_lung(scene, one, "Emphysema", pocket, AIR_HU + 5)
    return Finding("Emphysema", side, number * len(sides_of(side)), largest, "upper", grade)


ZONE_FLOOR = 12.0  # emphysema lies above this height


def lung_opacity(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Ground-glass patches with soft edges; vessels stay visible in them."""
    side = draw_side(rng)
    places, largest = [], 0.0
    for one in sides_of(side):
        for _ in range(rng.integers(1, 3)):
            radius = rng.uniform(28, 38)
            centre, _room = free_place(scene, rng, one, 0.55 * radius, any_zone(rng))
            axes = radius / scene.pose.mean_scale * rng.uniform(0.85, 1.15, 3)
            patch = Ellipsoid(centre, axes, rng.uniform(-40, 40, 3))
            paint_in_lung(scene, one, "Lung opacity", patch, rng.uniform(-340, -280), strength=0.9, blur=1.6)
            places.append((radius, one, zone(centre[2])))
            largest = max(largest, 2 * radius)
    return Finding("Lung opacity", side, len(places), largest, max(places)[2])


def consolidation(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """A dense, lumpy, airless patch of 54 mm and more with air-filled bronchi in it."""
    side = str(rng.choice(["left", "right"]))
    radius = rng.uniform(30, 38)
    centre, _room = free_place(scene, rng, side, 0.6 * radius, any_zone(rng))
    size = radius / scene.pose.mean_scale
    value = rng.uniform(25, 55)
    for turn in range(4):
        offset = np.zeros(3) if turn == 0 else rng.uniform(-0.55, 0.55, 3) * size
        lump = Ellipsoid(centre + offset, size * rng.uniform(0.6, 0.95, 3), rng.uniform(-40, 40, 3))
        paint_in_lung(scene, side, "Consolidation", lump, value)
    root = np.array([SIGN[side] * 36.0, -2.0, 14.0])
    inward = (root - centre) / max(float(np.linalg.norm(root - centre)), 1.0)
    for _ in range(3):
        way = inward + rng.uniform(-0.7, 0.7, 3)
        ends = np.stack([centre + way * 0.7 * size, centre - way * 0.6 * size])
        paint_in_lung(scene, side, None, Tube(ends, [4.4, 3.2]), -850.0)
    return Finding("Consolidation", side, place=zone(centre[2]))


def atelectasis(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Dense bands across the base of a lung that reach the pleura."""
    side = draw_side(rng)
    number = 0
    thickness = rng.uniform(17, 22)
    half = np.float32(thickness / 2 / scene.pose.mean_scale)
    for one in sides_of(side):
        for _ in range(2):
            centre, _room = free_place(scene, rng, one, 6.0, lambda p: p[:, 2] < 0)
            # a plate that stands on the diaphragm: a band in an axial slice
            angles = (90 + rng.uniform(-25, 25), 0, rng.uniform(-40, 40))
            outline = Ellipsoid(centre, (rng.uniform(36, 46), rng.uniform(36, 46), 30), angles)
            normal = rotation(angles)[:, 2].astype(np.float32)
            offset = np.float32(normal @ centre)

            paint_in_lung(
                scene,
                one,
                "Atelectasis",
                _plate(outline, normal, offset, half),
                rng.uniform(180, 220),  # collapsed lung takes up contrast
                keep_lesions=[LESIONS["Consolidation"]],
                bounds=outline.bounds,
            )
            number += 1
    return Finding("Atelectasis", side, number, thickness, "lower")


def _plate(outline: Ellipsoid, normal: np.ndarray, offset: np.float32, half: np.float32) -> Implicit:
    """What of an ellipsoid lies within ``half`` mm of the plane normal @ point = offset."""

    def plate(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        height = x * normal[0] + y * normal[1] + z * normal[2] - offset
        return np.maximum(np.abs(height) - half, outline(x, y, z))

    return plate


def fibrotic_sequela(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Scars of a lung's apex: a thick pleural cap and strands from it towards the hilum."""
    side = draw_side(rng)
    name = "Pulmonary fibrotic sequela"
    thickness = rng.uniform(10, 15)
    for one in sides_of(side):
        sign = SIGN[one]
        low, high = _lung_bounds(anatomy, one)
        low = np.array([low[0], low[1], 70.0])
        paint_in_lung(
            scene,
            one,
            name,
            lambda x, y, z: np.maximum(-thickness - anatomy.chest(x, y, z), 88 - z),
            rng.uniform(10, 40),
            bounds=(low, high),
        )
        for _ in range(6):
            start = np.array([sign * rng.uniform(25, 70), rng.uniform(-45, 40), rng.uniform(82, 105)])
            end = np.array([sign * rng.uniform(28, 60), rng.uniform(-25, 20), rng.uniform(38, 60)])
            bend = (start + end) / 2 + rng.uniform(-7, 7, 3)
            paint_in_lung(scene, one, name, Tube(np.stack([start, bend, end]), [4.0, 3.5, 2.5]), 25.0)
    return Finding(name, side, len(sides_of(side)), thickness * scene.pose.mean_scale, "upper")


def _bronchi(
    scene: Scene,
    rng: np.random.Generator,
    name: str,
    side: str,
    number: int,
    outer: float,
    wall: float,
    start: float,
    length: float,
    fall: tuple[float, float],
) -> None:
    """Airways with a visible wall that run outwards from the hilum; ``fall`` is the range of their vertical slope."""
    for one in sides_of(side):
        for turn in range(number):
            angle = np.deg2rad(-60 + 120 * (turn + rng.uniform(0.2, 0.8)) / number)
            way = np.array([SIGN[one] * np.cos(angle), np.sin(angle), rng.uniform(*fall)])
            way /= np.linalg.norm(way)
            root = np.array([SIGN[one] * 34.0, -4.0, 12.0]) + way * start
            ends = np.stack([root, root + way * length])
            radius = outer * rng.uniform(0.9, 1.1)
            paint_in_lung(scene, one, name, Tube(ends, [radius, radius]), 110.0)
            paint_in_lung(scene, one, None, Tube(ends, [radius - wall, radius - wall]), AIR_HU + 10)


def peribronchial_thickening(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Thick cuffs round narrow airways near the hilum."""
    side = draw_side(rng)
    _bronchi(scene, rng, "Peribronchial thickening", side, 4, 15.0, 10.5, 4.0, 60.0, (0.15, 1.0))
    return Finding("Peribronchial thickening", side, place="central")


def bronchiectasis(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Wide airways with a thin wall in the lower zone."""
    side = draw_side(rng)
    _bronchi(scene, rng, "Bronchiectasis", side, 3, 19.0, 7.0, 24.0, 60.0, (-0.9, -0.3))
    return Finding("Bronchiectasis", side, size_mm=2 * 19.0 * scene.pose.mean_scale, place="lower")
