"""Smooth random fields: few random numbers on a coarse grid, made dense by cubic splines along one axis after another."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline

_KNOT_MARGIN = 3  # a cubic B-spline reaches over four intervals


def spline_matrix(size: int, step: float) -> np.ndarray:
    """(size, coefficients) of uniform cubic B-splines whose knots lie ``step`` voxels apart."""
    count = int(np.ceil(size / step)) + _KNOT_MARGIN
    knots = np.arange(count + 4) - _KNOT_MARGIN
    places = np.arange(size) / step
    return np.asarray(BSpline.design_matrix(places, knots.astype(float), 3).toarray(), np.float32)


def smooth_field(shape: tuple[int, ...], steps: np.ndarray, rng: np.random.Generator, sigma: float = 1.0) -> np.ndarray:
    """A field (float32) of ``shape`` that changes over about ``steps`` voxels an axis, of standard deviation ``sigma``."""
    first, second, third = (spline_matrix(n, max(float(s), 1.0)) for n, s in zip(shape, steps, strict=True))
    rough = rng.standard_normal((first.shape[1], second.shape[1], third.shape[1]), dtype=np.float32)
    # each axis keeps the share of variance that the splines' squares sum to, 0.479 on average
    rough *= np.float32(sigma / 0.479**1.5)
    dense = np.tensordot(first, rough, axes=(1, 0))
    dense = np.matmul(second, dense)
    return np.matmul(dense, third.T)
