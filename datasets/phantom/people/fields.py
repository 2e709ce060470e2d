"""Smooth random fields: a few random numbers on a coarse grid, made dense by cubic splines axis by axis."""

from __future__ import annotations

import numpy as np


def spline_matrix(size: int, step: float) -> np.ndarray:
    """(size, coefficients) of uniform cubic B-splines whose knots lie ``step`` voxels apart."""
    places = np.arange(size) / step
    first = np.floor(places).astype(int)
    t = places - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    matrix = np.zeros((size, int(first[-1]) + 4), np.float32)
    for shift, weight in enumerate(weights):
        matrix[np.arange(size), first + shift] = weight
    return matrix


def smooth_field(shape: tuple[int, ...], steps: np.ndarray, rng: np.random.Generator, sigma: float = 1.0) -> np.ndarray:
    """A field (float32) of standard deviation ``sigma`` that changes over about ``steps`` voxels along each axis."""
    first, second, third = (spline_matrix(n, max(float(s), 1.0)) for n, s in zip(shape, steps, strict=True))
    rough = rng.standard_normal((first.shape[1], second.shape[1], third.shape[1]), dtype=np.float32)
    # each axis keeps the share of variance that the splines' squares sum to, 0.479 on average
    rough *= np.float32(sigma / 0.479**1.5)
    dense = np.tensordot(first, rough, axes=(1, 0))
    dense = np.matmul(second, dense)
    return np.matmul(dense, third.T)
