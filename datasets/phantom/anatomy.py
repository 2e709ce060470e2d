"""The phantom's healthy anatomy: chest and upper abdomen of a standard adult, in mm and HU.

All shapes lie in the frame of `datasets.phantom.shapes` (RAS, origin in the middle of the chest). Proportions are of a
textbook adult: inner chest 284 mm wide and 192 mm deep, heart 40 to 47 % of the chest's width, right diaphragm higher
than left, stomach and spleen on the left, liver on the right, aortic arch to the left of the spine. HU are of a
contrast-enhanced CT in a late phase. `datasets.phantom.organs` paints them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.phantom.shapes import Bounds, Ellipsoid, Tube, smooth_max

STRUCTURES: dict[str, int] = {
    "left lung": 1,
    "right lung": 2,
    "heart": 3,
    "aorta": 4,
    "liver": 5,
    "spleen": 6,
    "left kidney": 7,
    "right kidney": 8,
    "spine": 9,
    "ribs": 10,
    "trachea": 11,
}
"""Label values of the structure maps."""
GROUPS: dict[str, list[int]] = {"lungs": [1, 2], "kidneys": [7, 8]}
"""Structures that are unions of label values."""

LUNG_LABELS = {"left": 1, "right": 2}
SIGN = {"left": -1.0, "right": 1.0}  # x grows to the patient's right

CHEST = np.array([142.0, 96.0, 172.0])  # semi-axes of the inner chest; the third closes the apex
CHEST_BASE = -40.0  # height below which the chest is a straight cylinder
TOP, BOTTOM = 138.0, -162.0  # the field of view of the standard adult


@dataclass(frozen=True)
class Anatomy:
    """One patient's proportions; every number is drawn in ``draw``."""

    body: tuple[float, float]
    fat: float
    dome: dict[str, float]  # height of the diaphragm's top
    mediastinum: float  # half of the distance between the lungs
    cardiothoracic_ratio: float
    heart: Ellipsoid
    aorta_radius: float
    organs: dict[str, Ellipsoid]
    hu: dict[str, float]
    rib_phase: float
    table: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, cardiomegaly: bool) -> Anatomy:
        """Draw a patient. The draws are the same with and without cardiomegaly, so that only the heart differs."""
        around = rng.uniform
        size = {"normal": around(0.40, 0.465), "enlarged": around(0.585, 0.67)}
        ratio = size["enlarged" if cardiomegaly else "normal"]
        half = ratio * CHEST[0]
        grown = half / (0.435 * CHEST[0])
        place = np.array([-20.0, 24.0, -18.0]) + around(-4, 4, 3)
        place += [-0.20 * (half - 61), 2.0 * (grown - 1), -6.0 * (grown - 1)]
        heart = Ellipsoid(place, (half * 1.03, 46 * grown**0.4, 50 * grown**0.5), (0, around(10, 20), around(-12, -4)))

        def organ(centre: tuple, axes: tuple, angles: tuple = (0, 0, 0)) -> Ellipsoid:
            return Ellipsoid(np.array(centre) + around(-4, 4, 3), np.array(axes) * around(0.93, 1.07), angles)

        organs = {
            "liver": organ((66, 2, -84), (78, 86, 62)),
            "left lobe": organ((6, 40, -84), (62, 40, 32), (0, 12, 0)),
            "spleen": organ((-104, -36, -90), (30, 46, 40), (0, 12, 0)),
            "stomach": organ((-58, 34, -92), (44, 40, 42), (0, 20, 20)),
            "left kidney": organ((-60, -48, -112), (25, 23, 41), (8, 8, 0)),
            "right kidney": organ((60, -48, -118), (25, 23, 41), (8, -8, 0)),
        }
        hu = {
            "blood": around(140, 170),
            "muscle": around(48, 62),
            "fat": around(-112, -92),
            "lung": around(-790, -755),
            "liver": around(98, 122),
            "spleen": around(118, 142),
            "kidney": around(165, 205),
            "bone": around(230, 330),  # trabecular: vertebral bodies
            "cortical bone": around(560, 680),
            "stomach": around(15, 35),
        }
        return cls(
            body=(around(168, 178), around(115, 124)),
            fat=around(6, 15),
            dome={"right": around(-46, -36), "left": around(-58, -48)},
            mediastinum=around(15, 19),
            cardiothoracic_ratio=float(ratio),
            heart=heart,
            aorta_radius=around(12.5, 15.0),
            organs=organs,
            hu=hu,
            rib_phase=around(0, 24),
            table=bool(rng.random() < 0.6),
        )

    def chest(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """The inner chest wall moved outwards by ``margin`` mm; value in about millimetres."""
        a, b, c = CHEST + margin
        top = np.maximum(z - np.float32(CHEST_BASE), 0) / np.float32(c)
        return (np.sqrt((x / np.float32(a)) ** 2 + (y / np.float32(b)) ** 2 + top * top) - 1) * np.float32(115)

    def diaphragm(self, side: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height of the diaphragm: a dome that falls off most at the back, where the pleural recess reaches lowest."""
        u, v = (x - np.float32(SIGN[side] * 70)) / 72, (y - np.float32(18)) / 95
        return np.float32(self.dome[side]) - 30 * u * u - 58 * v * v

    def lung(self, side: str) -> Lung:
        """The pleural cavity of one side, before the mediastinum is painted over it."""
        return Lung(self, side)

    def aorta_points(self) -> np.ndarray:
        """Centre line from the heart over the arch to the abdomen, (n, 3) mm."""
        turn = np.deg2rad(np.linspace(0, 180, 8))
        start, end = np.array([10.0, 22.0, 52.0]), np.array([-22.0, -44.0, 52.0])
        middle, reach = (start + end) / 2, (start - end) / 2
        arch = middle + np.cos(turn)[:, None] * reach + np.sin(turn)[:, None] * np.array([0, 0, 26.0])
        return np.vstack(
            [[-4, 20, 8], [8, 24, 30], arch, [-24, -46, 0], [-20, -44, -60], [-10, -40, -110], [-8, -38, -180]]
        )

    def aorta(self) -> Tube:
        """The aorta as a tube."""
        points = self.aorta_points()
        narrowing = np.interp(np.arange(len(points)), [0, len(points) - 1], [1.1, 0.78])
        return Tube(points, self.aorta_radius * narrowing)


@dataclass(frozen=True)
class Lung:
    """One pleural cavity: inside the chest, beside the mediastinum, above the diaphragm."""

    anatomy: Anatomy
    side: str

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        wall = self.anatomy.chest(x, y, z)
        middle = np.float32(self.anatomy.mediastinum) - np.float32(SIGN[self.side]) * x
        floor = self.anatomy.diaphragm(self.side, x, y) - z
        return np.maximum(smooth_max(wall, middle, 14.0), floor)

    @property
    def bounds(self) -> Bounds:
        """A box that holds it: lowest and highest corner, mm."""
        a, b, _ = CHEST
        low, high = np.array([0.0, -b, -160.0]), np.array([a, b, 135.0])
        if self.side == "left":
            low[0], high[0] = -a, 0.0
        return low, high
