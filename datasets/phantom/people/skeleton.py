"""Bones of trunk and limbs: spine with processes and canal, ribs, sternum, shoulder girdle, pelvis, femora."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.body import Build, arm_points, cavity
from datasets.phantom.people.canvas import Box, Canvas
from datasets.phantom.people.frame import (
    BODY_DEPTH,
    BODY_WIDTH,
    CANAL,
    CANAL_RADIUS,
    SPINE,
    VERTEBRAE,
)
from datasets.phantom.people.profiles import HEIGHTS, Profile, rows_of
from datasets.phantom.people.sections import Plate
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.shapes import Bounds, Ellipsoid, Implicit, Tube

SHELL = 2.2  # mm of hard bone
DORSAL_SHELL = 1.5  # the same of vertebrae


def paint_bone(
    canvas: Canvas,
    shape: Implicit,
    tissues: Tissues,
    label: str | None,
    bounds: Bounds | None = None,
    shell: float = SHELL,
    hard: str = "cortical bone",
    keep: tuple[str, ...] = (),
) -> None:
    """A bone: hard outside, marrow inside."""
    marrow, cortex = np.float32(tissues["marrow"]), np.float32(tissues[hard])

    def hu(box: Box, value: np.ndarray) -> np.ndarray:
        return cortex + canvas.share(value + np.float32(shell)) * (marrow - cortex)

    canvas.paint(shape, hu, label, bounds=bounds, keep=keep)


def _vertebral_phase() -> tuple[Profile, Profile]:
    """At each height the share of its vertebra that lies below (0: lower end), and that vertebra's height."""
    lower = np.array(sorted(VERTEBRAE.values()))
    upper = np.append(lower[1:], 120.0)
    place = np.clip(np.searchsorted(lower, HEIGHTS, side="right") - 1, 0, len(lower) - 1)
    size = (upper - lower)[place]
    return Profile.of_table((HEIGHTS - lower[place]) / size), Profile.of_table(size)


PHASE, HEIGHT = _vertebral_phase()
PROCESS = Profile([(120, 6), (90, 16), (20, 22), (0, 28), (-135, 24), (-270, 24), (-340, 28), (-440, 22)])
"""How far the spinous process reaches behind the canal's wall, mm."""
WING = Profile([(120, 36), (90, 26), (20, 27), (0, 34), (-135, 32), (-270, 24), (-340, 40), (-440, 42)])
"""How far the transverse processes reach to the side, mm."""

SACRUM = Plate.of(
    [(-440, -50, -52, 50, -52, 16), (-470, -50, -66, 50, -66, 15), (-500, -34, -84, 34, -84, 10),
     (-530, -18, -96, 18, -96, 7), (-552, -6, -88, 6, -88, 5)]
)  # fmt: skip
STERNUM = Plate.of(
    [(-8, -24, 34, 24, 34, 6), (-50, -18, 58, 18, 58, 6), (-60, -12, 62, 12, 62, 5), (-150, -15, 94, 15, 94, 5.5),
     (-170, -6, 99, 6, 99, 4)]
)  # fmt: skip
_BLADE = [(-12, 92, -82, 140, -40, 5), (-40, 78, -108, 136, -44, 5), (-90, 76, -114, 132, -72, 4),
          (-150, 92, -112, 112, -98, 3.5)]  # fmt: skip
_ILIUM = [(-372, 106, -34, 116, 4, 5), (-400, 72, -68, 126, 34, 6), (-430, 54, -80, 129, 48, 6),
          (-470, 56, -74, 114, 46, 7), (-500, 78, -52, 108, 34, 10), (-522, 90, -26, 102, 24, 14)]  # fmt: skip
SHOULDER_BLADES = {side: Plate.of(_BLADE, side) for side in (-1.0, 1.0)}
ILIA = {side: Plate.of(_ILIUM, side) for side in (-1.0, 1.0)}


def vertebral_column(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Bodies, discs, arches and processes of the vertebrae as one implicit function, with the canal left out."""
    rows = rows_of(z)
    phase, height = PHASE.take(rows), HEIGHT.take(rows)
    radius, canal = CANAL_RADIUS.take(rows), y - CANAL.take(rows)
    wide, deep = BODY_WIDTH.take(rows), BODY_DEPTH.take(rows)
    waist = 1 - np.float32(0.5) * phase * (1 - phase)  # a body is narrower in its middle
    front = y - SPINE.take(rows)
    body = (np.sqrt((x / (wide * waist)) ** 2 + (front / (deep * waist)) ** 2) - 1) * deep
    ring = np.sqrt(x * x + canal * canal)
    middle = np.abs(phase - np.float32(0.45)) * height  # from the middle of the arch
    arch = np.maximum(ring - radius - 5, middle - np.float32(0.34) * height)
    behind = -canal - radius
    spinous = np.maximum(np.maximum(np.abs(x) - 3.6, behind - PROCESS.take(rows)), -behind - 2)
    spinous = np.maximum(spinous, np.abs(phase - np.float32(0.3)) * height - np.float32(0.27) * height)
    reach = np.abs(x)
    wing = np.maximum(
        np.maximum(reach - WING.take(rows), np.abs(canal + (reach - 12) * np.float32(0.15)) - 5), middle - 6
    )
    facet = np.maximum(np.hypot(reach - radius - 6, canal + 4) - 7, middle - 13)
    value = np.minimum(np.minimum(body, arch), np.minimum(np.minimum(spinous, wing), facet))
    value = np.maximum(value, radius - ring)
    return np.maximum(value, np.maximum(z - 119, np.float32(VERTEBRAE["L5"]) - z))


def paint_spine(canvas: Canvas, tissues: Tissues, layers: bool) -> None:
    """Vertebrae and sacrum, with discs and the canal's contents; cord and brainstem are painted by the head."""
    low, high = np.array([-48.0, -125, VERTEBRAE["L5"] - 4]), np.array([48.0, 12, 122.0])
    marrow, hard = np.float32(tissues["marrow"]), np.float32(tissues["cortical bone"])
    disc = np.float32(95.0)

    def hu(box: Box, value: np.ndarray) -> np.ndarray:
        rows = canvas.rows[box]
        if not layers:
            return np.full(value.shape, marrow)
        found = hard + canvas.share(value + np.float32(DORSAL_SHELL)) * (marrow - hard)
        gap = np.float32(0.11) - PHASE.take(rows)  # the disc lies below its vertebra
        gap = np.maximum(gap, np.float32(0.11) - np.abs(PHASE.take(rows) - 1)) * HEIGHT.take(rows)
        plate = np.clip(1 - np.abs(gap) / 2.5, 0, 1) * np.float32(0.3)
        found = found + plate * (hard - found)
        is_disc = np.clip(gap / canvas.voxel + np.float32(0.5), 0, 1) * (np.abs(canvas.y[box] - SPINE.take(rows)) < 22)
        return found + is_disc * (disc - found)

    box = canvas.box((low, high))
    if box is None:
        return
    canal = _canal_value(canvas, box)
    canvas.paint(lambda x, y, z: canal, tissues["fluid of the canal"], box=box)
    canvas.paint(vertebral_column, hu, "spine", box=box)
    paint_bone(canvas, SACRUM, tissues, "sacrum")


def _canal_value(canvas: Canvas, box: Box) -> np.ndarray:
    x, y, z = canvas.at(box)
    rows = canvas.rows[box]
    ring = np.sqrt(x * x + (y - CANAL.take(rows)) ** 2) - CANAL_RADIUS.take(rows)
    return np.maximum(ring, np.maximum(z - 122, np.float32(VERTEBRAE["L5"] - 6) - z))


def paint_chest_wall(canvas: Canvas, inside: np.ndarray | None, tissues: Tissues, phase: float) -> None:
    """Ribs with their cartilages, sternum. phase: where the first rib lies, as a share of the distance between two."""
    if inside is None:
        return
    low, high = cavity().bounds
    box = canvas.box((np.array([low[0] - 12, low[1] - 12, -350]), np.array([high[0] + 12, high[1] + 12, 14])))
    if box is not None:
        x, y, z = canvas.at(box)
        wall = np.abs(inside[box] - 5) - np.float32(3.4)
        fall = np.clip(y + 95, 0, 190) * np.float32(0.42)  # a rib falls from the spine to the front
        turn = np.mod(z + fall + np.float32(24 * phase), 24) - 12
        ribs = np.maximum(wall, np.abs(turn) - np.float32(6.0))
        order = z + fall  # the height at which a rib leaves the spine
        ribs = np.maximum(ribs, np.maximum(order - 10, np.float32(-272) - order))
        ribs = np.where(order < -225, np.maximum(ribs, y - 10), ribs)  # the last two end at the side
        ribs = np.maximum(ribs, 20 - np.abs(x))
        bony = np.clip((np.float32(58) - y) / 8, 0, 1)
        cartilage, hard = np.float32(tissues["cartilage"]), np.float32(tissues["cortical bone"] * 0.55)
        canvas.paint(lambda *_: ribs, lambda *_: cartilage + bony * (hard - cartilage), None, box=box, clear=False)
        canvas.paint(lambda *_: np.maximum(ribs, y - 58), lambda box, value: canvas.hu[box], "ribs", box=box)
    paint_bone(canvas, STERNUM, tissues, "sternum", shell=1.5)


def paint_shoulders(canvas: Canvas, build: Build, tissues: Tissues) -> None:
    """Clavicles, scapulae and, where the arms are in the picture, the bones of the arm."""
    for side, name in ((-1.0, "left"), (1.0, "right")):
        joint = np.array([side * 150, -16, -38.0])
        way = [[side * 20, 42, -8], [side * 70, 36, 4], [side * 118, -6, 0], [side * 148, -22, -14]]
        clavicle = Tube(np.array(way), (8, 6, 6, 7))
        paint_bone(canvas, clavicle, tissues, f"{name} clavicle")
        paint_bone(canvas, SHOULDER_BLADES[side], tissues, f"{name} scapula", shell=1.8)
        spine = Tube(np.array([[side * 78, -112, -40], [side * 120, -92, -18], [side * 150, -42, -8]]), (4, 6, 8))
        paint_bone(canvas, spine, tissues, f"{name} scapula")
        points = arm_points(build.arms, side)
        shaft = points if points is not None else np.array([joint, [side * 158, -18, -60]])
        paint_bone(canvas, Ellipsoid(shaft[0], (23, 23, 23)), tissues, f"{name} humerus")
        if points is not None:
            paint_bone(canvas, Tube(points[:3], (17, 11, 13)), tissues, f"{name} humerus", shell=5)
            paint_bone(canvas, Tube(points[2:] + (8 * side, 6, 0), (10, 8)), tissues, None, shell=4)
            paint_bone(canvas, Tube(points[2:] - (8 * side, 6, 0), (9, 8)), tissues, None, shell=4)


def paint_pelvis(canvas: Canvas, tissues: Tissues) -> None:
    """Hip bones and femora."""
    for side, name in ((-1.0, "left"), (1.0, "right")):
        hip = f"{name} hip"
        paint_bone(canvas, ILIA[side], tissues, hip)
        centre = (side * 92, 2, -548)
        paint_bone(canvas, Ellipsoid(centre, (36, 35, 34)), tissues, hip)
        for points, radii in (
            ([[80, 22, -548], [44, 56, -558], [8, 62, -578]], (12, 9, 13)),
            ([[80, -26, -560], [66, -42, -600], [60, -34, -626]], (15, 14, 13)),
            ([[60, -30, -626], [30, 12, -618], [10, 56, -596]], (9, 8, 9)),
        ):
            paint_bone(canvas, Tube(np.array(points, float) * (side, 1, 1), radii), tissues, hip)
        canvas.paint(Ellipsoid((side * 96, 2, -548), (27, 27, 27)), tissues["cartilage"] * 0.6)
        canvas.paint(Ellipsoid((side * 112, 2, -556), (24, 24, 26)), tissues["muscle"])
        femur = f"{name} femur"
        paint_bone(canvas, Ellipsoid((side * 96, 2, -548), (24, 24, 24)), tissues, femur)
        neck = np.array([[96, 2, -548], [126, -6, -568], [138, -12, -590], [124, -4, -680], [116, 0, -740]], float)
        paint_bone(canvas, Tube(neck * (side, 1, 1), (17, 17, 21, 15, 14)), tissues, femur, shell=4.5)
        paint_bone(canvas, Ellipsoid((side * 142, -16, -572), (13, 18, 22)), tissues, femur)
