"""The scanner's marks: texture of tissue, kernel, noise, streaks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.features import Features
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.scene import AIR_HU

PLAIN_NOISE = 12.0  # HU, where the scanner is not switched on


def scan(canvas: Canvas, skin: np.ndarray, metal: np.ndarray, features: Features, rng: np.random.Generator) -> None:
    """Add what a scanner adds. skin: distance to it, mm. metal: places (n, 3) in the standard adult, mm."""
    if not features.scanner:
        canvas.hu += np.float32(PLAIN_NOISE) * rng.standard_normal(canvas.shape, dtype=np.float32)
        return
    body = skin < 0
    _add_texture(canvas, body, rng)
    _apply_kernel(canvas, rng)
    if len(metal):
        _add_metal(canvas, metal, body, rng)
    if rng.random() < 0.5:
        _add_starvation(canvas, body, rng)
    _add_noise(canvas, rng)


def _add_texture(canvas: Canvas, body: np.ndarray, rng: np.random.Generator) -> None:
    """Tissue is not even: lobules, fibres, fat between; slow changes besides."""
    texture = smooth_field(canvas.shape, 9 / canvas.spacing, rng, rng.uniform(2, 9))
    texture += smooth_field(canvas.shape, 120 / canvas.spacing, rng, rng.uniform(0, 6))
    canvas.hu += texture * body


def _apply_kernel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Thick slices, a soft or a sharp kernel."""
    if rng.random() < 0.6:
        widths = rng.uniform(0.2, 0.8), rng.uniform(0.0, 0.8)
        for axis, width in ((0, widths[0]), (1, widths[0]), (2, widths[1])):
            if width > 0.25:
                ndimage.gaussian_filter1d(canvas.hu, width, axis=axis, output=canvas.hu, truncate=2.5)
    else:
        soft = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(canvas.hu, 0.8, 0, truncate=2), 0.8, 1, truncate=2)
        canvas.hu += np.float32(rng.uniform(0.0, 0.5)) * (canvas.hu - soft)


def _add_metal(canvas: Canvas, metal: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> None:
    """A metal part at each place, with bright and dark rays in its slices."""
    for place in metal:
        away = (canvas.x - np.float32(place[0])) ** 2 + (canvas.y - np.float32(place[1])) ** 2
        away += (canvas.z - np.float32(place[2])) ** 2
        i, j, k = (int(n) for n in np.unravel_index(int(away.argmin()), canvas.shape))
        if away[i, j, k] > 36:
            continue
        part = away < rng.uniform(4, 9) ** 2
        canvas.hu[part] = rng.uniform(2500, 3071)
        u = (np.arange(canvas.shape[0]) - i)[:, None] * canvas.spacing[0]
        v = (np.arange(canvas.shape[1]) - j)[None, :] * canvas.spacing[1]
        angle, distance = np.arctan2(v, u), np.hypot(u, v)
        rays = sum(np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in rng.integers(2, 14, 4))
        rays = rays * np.exp(-distance / rng.uniform(30, 90)) * rng.uniform(60, 350)
        for slice_ in range(max(k - 2, 0), min(k + 3, canvas.shape[2])):
            fade = np.exp(-(((slice_ - k) * canvas.spacing[2] / 5) ** 2))
            canvas.hu[:, :, slice_] += (fade * rays * (body[:, :, slice_] | (distance < 40))).astype(np.float32)


def _add_starvation(canvas: Canvas, body: np.ndarray, rng: np.random.Generator) -> None:
    """Horizontal streaks where few photons come through: shoulders, hips, arms at the sides."""
    path = ((canvas.hu - np.float32(AIR_HU)) * body).sum(axis=0) * np.float32(canvas.spacing[0] / 1000)
    strength = np.clip(path / 380, 0, 1.6) ** 3  # (y, z): of water, mm
    lines = rng.standard_normal((canvas.shape[0] // 8 + 4, *canvas.shape[1:]), dtype=np.float32)
    lines = ndimage.gaussian_filter1d(lines, 1.0, axis=0)
    streaks = np.repeat(lines, 8, axis=0)[: canvas.shape[0]]
    canvas.hu += streaks * (strength * np.float32(rng.uniform(5, 60))) * body


def _add_noise(canvas: Canvas, rng: np.random.Generator) -> None:
    """Noise of any strength, correlated in plane; half of the volumes are averages of thinner slices, with little."""
    sigma = np.exp(rng.uniform(np.log(2.5), np.log(38)))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    smooth = rng.uniform(0.0, 1.1)
    if smooth > 0.3:
        for axis in (0, 1):
            noise = ndimage.gaussian_filter1d(noise, smooth, axis=axis, truncate=2.5)
    if rng.random() < 0.3:  # a sharp kernel's noise has no slow part
        noise -= ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(noise, 1.5, 0, truncate=2), 1.5, 1, truncate=2)
    canvas.hu += noise * np.float32(sigma / max(float(noise[::2, ::2, ::2].std()), 1e-3))
