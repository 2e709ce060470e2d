"""The phantom's voxel grid: pose, painting of shapes with partial volume, label maps, noise.

A ``Scene`` holds HU (float32), labels of structures, lesions and their sites (uint8) on an axial RAS grid. Shapes live
in the phantom's own frame (standard adult, mm); the scene knows how that frame lies in the scanner (scale, rotation,
shift), so one description of the anatomy serves every size and pose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from datasets.phantom.shapes import Bounds, Implicit, Vector, occupancy

AIR_HU = -1000.0

Box = tuple[slice, slice, slice]  # of voxel indices
LungEffect = Literal["displace", "make", "inside", "fill"]


@dataclass(frozen=True)
class Pose:
    """Where the standard adult lies in the scanner: world = rotation @ (scale * p) + shift, mm, RAS."""

    scale: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the phantom frame in scanner millimetres."""
        return (np.asarray(points, float) * self.scale) @ self.rotation.T + self.shift

    @property
    def mean_scale(self) -> float:
        """Geometric mean of the three scales: scanner millimetres to one millimetre of the standard adult."""
        return float(np.prod(self.scale) ** (1 / 3))


class Scene:
    """Volume under construction. Arrays have axes (x, y, z) that run to the patient's right, front and head."""

    def __init__(self, shape: tuple[int, int, int], spacing: np.ndarray, pose: Pose) -> None:
        self.shape, self.pose = shape, pose
        self.spacing = np.asarray(spacing, float)
        self.first_voxel = -(np.asarray(shape) - 1) / 2 * self.spacing  # the scanner's origin is the grid's centre
        self.hu = np.full(shape, AIR_HU, np.float32)
        self.structures = np.zeros(shape, np.uint8)
        self.lesions = np.zeros(shape, np.uint8)
        self.sites = np.zeros(shape, np.uint8)
        self.lung = np.zeros(shape, np.float32)  # share of each voxel that is lung, left and right together
        matrix = pose.rotation.T / pose.scale[:, None]
        start = matrix @ (self.first_voxel - pose.shift)
        self._axes = [
            [(matrix[p, axis] * self.spacing[axis] * np.arange(shape[axis])).astype(np.float32) for axis in range(3)]
            for p in range(3)
        ]
        for p in range(3):
            self._axes[p][0] = self._axes[p][0] + np.float32(start[p])

    @property
    def whole(self) -> Box:
        """The index box of the whole volume."""
        return _box((0, 0, 0), self.shape)

    def box(self, bounds: Bounds | None, margin: float = 6.0) -> Box | None:
        """Index box that holds a box of the phantom frame and ``margin`` mm more; None where it misses the volume."""
        if bounds is None:
            return self.whole
        low, high = (np.asarray(b, float) for b in bounds)
        corners = np.array([[(low, high)[(i >> a) & 1][a] for a in range(3)] for i in range(8)])
        index = (self.pose.to_world(corners) - self.first_voxel) / self.spacing
        pad = np.maximum(margin * self.pose.mean_scale / self.spacing, 1.5)
        first = np.maximum(np.floor(index.min(axis=0) - pad).astype(int), 0)
        stop = np.minimum(np.ceil(index.max(axis=0) + pad).astype(int) + 1, self.shape)
        if np.any(stop - first < 1):
            return None
        return _box(first, stop)

    def coordinates(self, box: Box) -> list[np.ndarray]:
        """The three coordinates (phantom frame, mm) of the voxel centres of an index box."""
        i, j, k = box
        return [a[i][:, None, None] + (b[j][:, None] + c[k]) for a, b, c in self._axes]

    def paint(
        self,
        shape: Implicit,
        hu: float | Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        *,
        structure: int | None = None,
        lesion: int | None = None,
        site: int = 0,
        keep: Iterable[int] = (),
        keep_lesions: Iterable[int] = (),
        lung: LungEffect = "displace",
        strength: float = 1.0,
        blur: float = 0.0,
        bounds: Bounds | None = None,
    ) -> int:
        """Blend a shape into the volume and mark its voxels; gives the number of marked voxels.

        Args:
            shape: implicit function; its ``bounds`` (or ``bounds`` here) limit the work.
            hu: value inside, or a function of the coordinates.
            structure: label to write where at least half of the voxel is taken (0 clears; None leaves the labels).
            lesion: lesion label, likewise. site: that of the lesion's site, 0 where sites are not told apart.
            keep: structure labels that the shape may not overwrite. keep_lesions: lesion labels, likewise.
            lung: "displace" takes the painted share out of the lung, "make" turns it into lung; "inside" paints on lung
                alone, in proportion to its share of a voxel, and leaves it lung; "fill" does so and takes it out.
            strength: opacity of the shape. blur: softening of its edge, in voxels.
        """
        box = self.box(getattr(shape, "bounds", None) if bounds is None else bounds)
        if box is None:
            return 0
        x, y, z = self.coordinates(box)
        share: np.ndarray = occupancy(shape(x, y, z))
        if blur:
            share = ndimage.gaussian_filter(share, blur * self.spacing[0] / self.spacing)
        if lung in ("inside", "fill"):
            share *= self.lung[box]
        for labels, names in ((self.structures, keep), (self.lesions, keep_lesions)):
            for value in names:
                share[labels[box] == value] = 0.0
        marked = share >= 0.5
        target = self.hu[box]
        value_inside = hu(x, y, z) if callable(hu) else np.float32(hu)
        target += (share * np.float32(strength)) * (value_inside - target)
        if lung == "make":
            np.maximum(self.lung[box], share, out=self.lung[box])
        elif lung != "inside":
            self.lung[box] -= share if lung == "fill" else share * self.lung[box]
        if structure is not None:
            self.structures[box][marked] = structure
        if lesion is not None:
            self.lesions[box][marked] = lesion
            self.sites[box][marked] = site
        return int(marked.sum())

    def add_streaks(self, metal: np.ndarray, rng: np.random.Generator, amplitude: float) -> None:
        """Add the bright and dark rays of beam hardening round metal, in its own slices and inside the body.

        Rays run from the metal's centre in a slice; they fade over 80 mm and reach ``amplitude`` HU where the metal
        takes 100 mm2 or more. ``metal`` is a boolean mask of the volume's shape.
        """
        area = metal.sum(axis=(0, 1)) * self.spacing[0] * self.spacing[1]
        waves = rng.integers(5, 9)
        for k in np.flatnonzero(area):
            i, j = np.nonzero(metal[:, :, k])
            x = (np.arange(self.shape[0]) - i.mean())[:, None] * self.spacing[0]
            y = (np.arange(self.shape[1]) - j.mean())[None, :] * self.spacing[1]
            rays = np.cos(waves * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)) * np.exp(-np.hypot(x, y) / 80)
            body = (self.hu[:, :, k] > AIR_HU + 50) & ~metal[:, :, k]
            self.hu[:, :, k] += np.float32(amplitude * min(area[k] / 100, 1.0)) * (rays * body).astype(np.float32)

    def add_noise(self, rng: np.random.Generator, sigma: float, smooth: float = 0.6) -> None:
        """Add Gaussian noise of standard deviation ``sigma`` HU, correlated in plane over ``smooth`` voxels."""
        noise = rng.standard_normal(self.shape, dtype=np.float32)
        noise = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(noise, smooth, axis=0), smooth, axis=1)
        noise *= np.float32(sigma / noise.std())
        self.hu += noise

    def free_sites(self, labels: Iterable[int], taken: Iterable[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Points of lung with room around them: phantom-frame points (n, 3) and the clearance of each, scanner mm.

        labels: structure labels to search. taken: lesion labels that count as no room. The search grid is about 4 mm.
        """
        step = np.maximum(np.round(4.0 / self.spacing), 1).astype(int)
        offset = step // 2
        view = tuple(slice(o, None, s) for o, s in zip(offset, step, strict=True))
        free = np.isin(self.structures[view], list(labels)) & ~np.isin(self.lesions[view], list(taken))
        index = np.argwhere(free)
        if not len(index):
            return np.zeros((0, 3)), np.zeros(0)
        box = _box(index.min(axis=0), index.max(axis=0) + 1)
        framed = np.pad(free[box], 1)  # nothing is free outside, so that no distance changes
        room = ndimage.distance_transform_edt(framed, sampling=step * self.spacing)[1:-1, 1:-1, 1:-1]
        i, j, k = (index[:, axis] * step[axis] + offset[axis] for axis in range(3))
        points = [a[i] + b[j] + c[k] for a, b, c in self._axes]
        return np.stack(points, axis=1).astype(float), room[free[box]]


def _box(first: Vector, stop: Vector) -> Box:
    (a, b, c), (d, e, f) = first, stop
    return slice(int(a), int(d)), slice(int(b), int(e)), slice(int(c), int(f))
