"""Organs that vary: an ellipsoid or tube of the standard adult, moved, resized and turned at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from datasets.phantom.shapes import Ellipsoid, Tube


@dataclass(frozen=True)
class Variation:
    """How much organs differ from the standard's. amount: 1 for patients, 0 for the standard adult."""

    rng: np.random.Generator
    amount: float

    def ellipsoid(
        self,
        centre: ArrayLike,
        axes: ArrayLike,
        angles: ArrayLike = (0, 0, 0),
        move: float = 4.0,
        size: float = 0.12,
    ) -> Ellipsoid:
        """move: standard deviation of the shift, mm; size: of the axes, as a share; turned by some degrees."""
        shift, grow, axis = self.rng.standard_normal(3), self.rng.standard_normal(), self.rng.standard_normal(3)
        turn = self.rng.standard_normal(3) * 6 * self.amount
        factor = np.exp(np.clip(self.amount * size * (0.7 * grow + 0.7 * axis), -0.5, 0.4))
        return Ellipsoid(
            np.asarray(centre, float) + self.amount * move * shift,
            np.asarray(axes, float) * factor,
            np.asarray(angles, float) + turn,
        )

    def tube(self, points: ArrayLike, radii: ArrayLike, move: float = 3.0) -> Tube:
        """Every point moved by itself; all radii by one factor."""
        places = np.asarray(points, float)
        shift = self.rng.standard_normal(places.shape) * self.amount * move
        factor = np.exp(self.amount * 0.12 * self.rng.standard_normal())
        return Tube(places + shift, np.asarray(radii, float) * factor)

    def chance(self, probability: float) -> bool:
        """Whether something that not everyone has is there; never in the standard adult."""
        return bool(self.rng.random() < probability) and self.amount > 0
