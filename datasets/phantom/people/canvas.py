"""The voxels of a person phantom under construction: shapes are painted one over another, with shares of voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from datasets.phantom.people.profiles import rows_of
from datasets.phantom.people.structures import VALUES
from datasets.phantom.scene import AIR_HU
from datasets.phantom.shapes import Bounds, Implicit

COARSE = 4  # voxels between the points that a shape's box is looked for at
UNDER_SKIN = 2.0  # mm between the skin and anything painted
Box = tuple[slice, slice, slice]
Value = float | np.floating | np.ndarray


class Canvas:
    """HU (float32) and labels (uint8) on a grid whose voxels have coordinates in the standard adult (mm).

    Shapes are implicit functions of these, negative inside, in about millimetres; a shape's share of a voxel follows
    from its value at the centre and the voxel's size.  A voxel's label is the last shape's that took half of it.
    """

    def __init__(self, coordinates: tuple[np.ndarray, np.ndarray, np.ndarray], spacing: np.ndarray) -> None:
        self.x, self.y, self.z = coordinates
        self.shape = self.x.shape
        self.spacing = np.asarray(spacing, float)
        self.voxel = np.float32(np.mean(self.spacing) * 1.1)  # width over which a share goes from 0 to 1
        self.hu = np.full(self.shape, AIR_HU, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)
        self.rows = rows_of(self.z)
        self.skin: np.ndarray | None = None  # distance to the skin (mm): shapes end below it
        every = (slice(None, None, COARSE),) * 3
        self._coarse = [np.ascontiguousarray(part[every]) for part in coordinates]
        self._reach = [(float(part.min()), float(part.max())) for part in self._coarse]
        self._margin = COARSE * self.spacing.max() * 1.3

    def box(self, bounds: Bounds | None) -> Box | None:
        """Indices of the voxels that may lie within bounds (lowest and highest corner, mm); None without any."""
        if bounds is None:
            return (slice(None),) * 3
        inside = np.ones(self._coarse[0].shape, bool)
        for part, (least, most), low, high in zip(self._coarse, self._reach, *bounds, strict=True):
            low, high = np.float32(low - self._margin), np.float32(high + self._margin)
            if high < least or low > most:
                return None
            inside &= part > low
            inside &= part < high
        if not inside.any():
            return None
        found = []
        for axis in range(3):
            hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) * COARSE
            found.append(slice(max(int(hit[0]) - COARSE, 0), int(hit[-1]) + COARSE + 1))
        return found[0], found[1], found[2]

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coordinates of a box."""
        return self.x[box], self.y[box], self.z[box]

    def share(self, value: np.ndarray) -> np.ndarray:
        """Share of each voxel inside an implicit function, 0 to 1."""
        share = value * np.float32(-1 / self.voxel)
        share += np.float32(0.5)
        return np.clip(share, 0, 1, out=share)

    def paint(
        self,
        shape: Implicit,
        hu: Value | Callable[[Box, np.ndarray], np.ndarray],
        label: str | None = None,
        *,
        within: str | Iterable[str] | None = None,
        keep: Iterable[str] = (),
        bounds: Bounds | None = None,
        box: Box | None = None,
        clear: bool = True,
    ) -> None:
        """Blend a shape into the volume.

        Args:
            shape: implicit function; where it has `bounds` they limit the work.
            hu: inside; or a function of the box and of the shape's values there.
            label: the structure that its voxels become; None makes them none, or with ``clear`` False changes nothing.
            within: structures that alone may be painted on. keep: structures that are not painted on.
        """
        box = self.box(getattr(shape, "bounds", None) if bounds is None else bounds) if box is None else box
        if box is None:
            return
        value = shape(*self.at(box))
        if self.skin is not None:
            value = np.maximum(value, self.skin[box] + np.float32(UNDER_SKIN))
        share = self.share(value)
        labels = self.labels[box]
        if within is not None:
            names = (within,) if isinstance(within, str) else within
            share *= np.isin(labels, [VALUES[name] for name in names])
        for name in keep:
            share[labels == VALUES[name]] = 0
        inside = hu(box, value) if callable(hu) else hu
        target = self.hu[box]
        target += share * (inside - target)
        if label is not None or clear:
            labels[share >= 0.5] = VALUES[label] if label else 0

    def blend(self, share: np.ndarray, hu: Value) -> None:
        """Mix HU into the whole volume in proportion to a share (0 to 1); labels stay."""
        self.hu += share * (hu - self.hu)
