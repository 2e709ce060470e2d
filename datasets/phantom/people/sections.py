"""Solids given by their axial section at each height: closed outlines for cavities, plates for flat bones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.phantom.people.profiles import Profile, rows_of
from datasets.phantom.shapes import Bounds

SQUARENESS = 0.8


@dataclass(frozen=True)
class Section:
    """A rounded section, symmetric in x: half its width, its front and back (y), from bottom to top; all mm.

    waves: amplitude and phase of each harmonic of the radius over the angle, from the second on.  The value is the
    distance to the surface along the ray from the section's middle.
    """

    half: Profile
    front: Profile
    back: Profile
    bottom: float
    top: float
    waves: tuple[tuple[float, float], ...] = ()
    square: bool = True

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        rows = rows_of(z) if rows is None else rows
        middle, deep = (self.front + self.back) * 0.5, (self.front + self.back * -1) * 0.5
        v = y - middle.take(rows)
        distance = x * x
        distance += v * v
        distance = np.sqrt(distance, out=distance)
        u = x / self.half.take(rows)
        v /= deep.take(rows)
        uu, vv = u * u, v * v
        squared = uu + vv
        radius = np.sqrt(squared) + np.float32(1e-4)
        reach = np.sqrt(squared - SQUARENESS * uu * vv / (1 + uu * vv)) + np.float32(1e-4) if self.square else radius
        if self.waves:
            reach = reach / (1 + self._harmonics(u / radius, v / radius))
        value = distance - distance / reach
        # along the middle the ray has no length: there the depth of the section counts
        value = np.where(radius < 0.05, -deep.take(rows), value)
        value = np.maximum(value, z - np.float32(self.top), out=value)
        return np.maximum(value, np.float32(self.bottom) - z, out=value)

    def _harmonics(self, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
        total = np.zeros_like(cosine)
        c, s = cosine, sine
        for amplitude, phase in self.waves:
            c, s = c * cosine - s * sine, s * cosine + c * sine
            total += np.float32(amplitude * np.cos(phase)) * c
            total -= np.float32(amplitude * np.sin(phase)) * s
        return total

    @property
    def bounds(self) -> Bounds:
        """The box that holds it, mm."""
        wide = float(self.half.table.max()) * 1.15
        low, high = float(self.back.table.min()) - 15, float(self.front.table.max()) + 15
        return np.array([-wide, low, self.bottom]), np.array([wide, high, self.top])


@dataclass(frozen=True)
class Plate:
    """A flat bone: at each height a segment in the axial plane, from (x, y) to (x, y), and half its thickness; mm.

    side: -1 mirrors it to the other side of the body.
    """

    first: tuple[Profile, Profile]
    second: tuple[Profile, Profile]
    thickness: Profile
    bottom: float
    top: float
    side: float = 1.0

    @classmethod
    def of(cls, knots: Sequence[tuple[float, float, float, float, float, float]], side: float = 1.0) -> Plate:
        """From rows of (z, x and y of the first end, x and y of the second end, half thickness)."""
        z = [row[0] for row in knots]
        first, second = ((_column(knots, i), _column(knots, i + 1)) for i in (1, 3))
        return cls(first, second, _column(knots, 5), min(z), max(z), side)

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        rows = rows_of(z)
        x = x * np.float32(self.side)
        ax, ay = self.first[0].take(rows), self.first[1].take(rows)
        dx, dy = self.second[0].take(rows) - ax, self.second[1].take(rows) - ay
        px, py = x - ax, y - ay
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + np.float32(1e-3)), 0, 1)
        value = np.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2) - self.thickness.take(rows)
        return np.maximum(value, np.maximum(z - np.float32(self.top), np.float32(self.bottom) - z))

    @property
    def bounds(self) -> Bounds:
        """The box that holds it, mm."""
        reach = float(self.thickness.table.max())
        x = [self.side * float(f(p.table)) for p in (self.first[0], self.second[0]) for f in (np.min, np.max)]
        y = [float(f(p.table)) for p in (self.first[1], self.second[1]) for f in (np.min, np.max)]
        low = np.array([min(x) - reach, min(y) - reach, self.bottom])
        return low, np.array([max(x) + reach, max(y) + reach, self.top])


def _column(knots: Sequence[tuple[float, float, float, float, float, float]], column: int) -> Profile:
    return Profile([(row[0], row[column]) for row in knots])
