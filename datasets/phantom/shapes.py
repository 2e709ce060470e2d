"""Implicit functions of the phantom's shapes: negative inside, zero on the surface, positive outside.

Every shape is called as ``shape(x, y, z)`` with coordinates in the phantom's own frame (mm of a standard adult, RAS:
x to the right, y anterior, z superior) and gives a float32 array. Values need not be true distances: the occupancy of a
voxel is found from the value and its change across the voxel (see ``occupancy``). ``bounds`` is a box that holds the
shape, so that it is evaluated there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np

Vector = Sequence[float] | np.ndarray  # three numbers
Bounds = tuple[np.ndarray, np.ndarray]
Implicit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def occupancy(value: np.ndarray) -> np.ndarray:
    """Share of each voxel that lies inside an implicit function, in [0, 1] (partial volume).

    The function is taken as linear across a voxel. It then varies over the voxel by w = |f_i| + |f_j| + |f_k| (changes
    from a voxel to the next), and the share is 1/2 - f/w, clipped: exact for a surface parallel to a voxel face at any
    slice thickness, close to it for an oblique one.
    """
    width = np.full_like(value, 1e-6)
    for axis in range(3):
        if value.shape[axis] < 2:
            continue
        step = np.abs(np.diff(value, axis=axis))
        step *= 0.5
        before, after = (slice(None),) * axis, (slice(None),) * (2 - axis)
        width[(*before, slice(0, -1), *after)] += step
        width[(*before, slice(1, None), *after)] += step
        for edge in (0, -1):  # the border has one neighbour only: count its step twice
            width[(*before, edge, *after)] += step[(*before, edge, *after)]
    share = np.divide(value, width, out=width)
    np.subtract(0.5, share, out=share)
    return np.clip(share, 0.0, 1.0, out=share)


def smooth_max(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Intersection of two implicit functions with an edge rounded over ``blend`` (quadratic polynomial maximum)."""
    h = np.maximum(blend - np.abs(a - b), 0.0) / blend
    return np.maximum(a, b) + h * h * (blend / 4)


def rotation(angles_deg: Vector) -> np.ndarray:
    """Rotation matrix (3, 3) about x, then y, then z by angles in degrees."""
    a, b, c = np.deg2rad(angles_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


@dataclass(frozen=True)
class Ellipsoid:
    """Solid ellipsoid: centre and semi-axes in mm, rotated by angles in degrees. Value is about millimetres."""

    centre: Vector
    axes: Vector
    angles: Vector = (0.0, 0.0, 0.0)

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (self.radius(x, y, z) - 1.0) * np.float32(min(self.axes))

    def radius(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Radius in units of the semi-axes: 1 on the surface."""
        matrix = (rotation(self.angles).T / np.asarray(self.axes, float)[:, None]).astype(np.float32)
        offset = (matrix @ np.asarray(self.centre, np.float32)).astype(np.float32)

        def squared(row: np.ndarray, shift: np.float32) -> np.ndarray:
            part = x * row[0]
            if row[1]:
                part = part + y * row[1]
            if row[2]:
                part = part + z * row[2]
            part = part - shift
            part *= part
            return part

        return np.sqrt(reduce(np.add, map(squared, matrix, offset)))

    @property
    def bounds(self) -> Bounds:
        """The box that holds the ellipsoid: lowest and highest corner, mm."""
        turn = rotation(self.angles) * np.asarray(self.axes, float)
        half = np.sqrt((turn**2).sum(axis=1))
        centre = np.asarray(self.centre, float)
        return centre - half, centre + half

    def point(self, direction: Vector) -> np.ndarray:
        """The surface point seen from the centre along ``direction`` (patient frame), mm."""
        way = np.asarray(direction, float)
        local = rotation(self.angles).T @ way / np.asarray(self.axes, float)
        return np.asarray(self.centre, float) + way / np.linalg.norm(local)

    def grown(self, margin: float) -> Ellipsoid:
        """The same ellipsoid with every semi-axis longer by ``margin`` mm."""
        return Ellipsoid(self.centre, tuple(a + margin for a in self.axes), self.angles)


@dataclass(frozen=True)
class Tube:
    """A tube of varying radius along a polyline: points (n, 3) in mm, one radius each. Value is millimetres."""

    points: np.ndarray
    radii: Sequence[float] | np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        distances = (
            _segment_distance(x, y, z, np.asarray(p, float), np.asarray(q, float), r, t)
            for (p, q), (r, t) in zip(pairwise(self.points), pairwise(self.radii), strict=True)
        )
        return reduce(lambda nearest, distance: np.minimum(nearest, distance, out=nearest), distances)

    @property
    def bounds(self) -> Bounds:
        """The box that holds the tube: lowest and highest corner, mm."""
        points, radii = np.asarray(self.points, float), np.asarray(self.radii, float)[:, None]
        return (points - radii).min(axis=0), (points + radii).max(axis=0)


def _segment_distance(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, p: np.ndarray, q: np.ndarray, r: float, t: float
) -> np.ndarray:
    """Distance to the segment p-q less a radius that goes from r to t along it."""
    d = (q - p).astype(np.float32)
    length2 = np.float32(max(float(d @ d), 1e-6))
    px, py, pz = x - np.float32(p[0]), y - np.float32(p[1]), z - np.float32(p[2])
    along = px * (d[0] / length2)
    along += py * (d[1] / length2)
    along += pz * (d[2] / length2)
    np.clip(along, 0.0, 1.0, out=along)
    px = px - along * d[0]
    py = py - along * d[1]
    pz = pz - along * d[2]
    distance = np.sqrt(px * px + py * py + pz * pz)
    along *= np.float32(t - r)
    distance -= along
    distance -= np.float32(r)
    return distance
