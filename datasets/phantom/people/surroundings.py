"""What lies outside the body: table, cushions, clothes; and the round field that a scanner reconstructs."""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.scene import AIR_HU

OUTSIDE_HU = (-1024.0, -2000.0, -3024.0)  # what scanners write beyond the round field; stored HU are clipped


def paint_surroundings(canvas: Canvas, skin: np.ndarray, rng: np.random.Generator) -> None:
    """Paint clothes, cushions, table and fittings into the air. skin: distance to it, mm, positive outside."""
    air = np.clip((skin - 2) / canvas.voxel, 0, 1)
    place = scanner_places(canvas)
    if rng.random() < 0.6:
        _paint_clothes(canvas, skin, air, rng)
    if rng.random() < 0.5:
        _paint_cushions(canvas, place, air, rng)
    if rng.random() < 0.75:
        _paint_table(canvas, place, skin, air, rng)
    for _ in range(int(rng.integers(0, 4))):
        _paint_part(canvas, place, air, rng)
    if rng.random() < 0.2:  # some sets write one value wherever no patient is
        canvas.hu[air >= 1] = rng.choice([AIR_HU, OUTSIDE_HU[0]])


def scanner_places(canvas: Canvas) -> list[np.ndarray]:
    """x, y, z of the voxels from the middle of the grid, mm, as arrays that broadcast to its shape."""
    x, y, z = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(canvas.shape, canvas.spacing, strict=True))
    return [part.astype(np.float32) for part in (x[:, None, None], y[:, None], z)]


def _paint_clothes(canvas: Canvas, skin: np.ndarray, air: np.ndarray, rng: np.random.Generator) -> None:
    folds = smooth_field(canvas.shape, 45 / canvas.spacing, rng)
    distance = 6 + 5 * folds
    cloth = np.clip(1.4 - np.abs(skin - distance) / canvas.voxel, 0, 1) * air
    cloth *= np.clip(folds + rng.uniform(0.2, 1.5), 0, 1)
    canvas.blend(cloth * np.float32(rng.uniform(0.1, 0.5)), np.float32(rng.uniform(-300, 0)))


def _paint_cushions(canvas: Canvas, place: list[np.ndarray], air: np.ndarray, rng: np.random.Generator) -> None:
    """Foam below and beside the body, with a surface of random height."""
    x, y, z = place
    top = np.float32(rng.uniform(-150, -40)) + np.float32(rng.uniform(0, 0.5)) * np.abs(x)
    share = np.clip((top - y) / canvas.voxel, 0, 1) * air
    if rng.random() < 0.5:
        share *= np.clip((z - np.float32(rng.uniform(-60, 60))) / canvas.voxel, 0, 1)  # for the upper part alone
    canvas.blend(share, np.float32(rng.uniform(AIR_HU + 10, -860)))


def _paint_table(
    canvas: Canvas, place: list[np.ndarray], skin: np.ndarray, air: np.ndarray, rng: np.random.Generator
) -> None:
    """A plate below the body: flat, curved or bent in a V; two thin walls with foam or air between them."""
    width, thick, wall = rng.uniform(190, 280), rng.uniform(10, 60), rng.uniform(1.0, 3.0)
    x, y, _ = place
    deep = np.flatnonzero((skin < 0).any(axis=(0, 2)))
    surface = (float(y[deep[0], 0]) if len(deep) else -140.0) - rng.uniform(0, 25)
    bend = rng.choice(3)
    across = np.abs(x)
    rise = (0.0, rng.uniform(0.0004, 0.0016) * across * across, rng.uniform(0.1, 0.35) * across)[bend]
    depth = surface + rise - y  # below the table's surface, mm
    depth = depth.astype(np.float32)
    inside = np.maximum(np.abs(depth - thick / 2) - thick / 2, across - np.float32(width))
    canvas.blend(np.clip(0.5 - inside / canvas.voxel, 0, 1) * air, np.float32(rng.uniform(AIR_HU, -850)))
    shell = np.clip(0.5 - (np.abs(inside) - wall) / canvas.voxel, 0, 1) * air
    canvas.blend(shell, np.float32(rng.uniform(-600, 150)))


def _paint_part(canvas: Canvas, place: list[np.ndarray], air: np.ndarray, rng: np.random.Generator) -> None:
    """A bar of plastic or metal beside or below the body: holders, handles, the frame of a mask."""
    middle = rng.uniform(-1, 1, 3) * (190, 60, 150) + (0, -90, 0)
    half = rng.uniform(4, (35, 12, 120))
    apart = [np.abs(part - np.float32(m)) - np.float32(h) for part, m, h in zip(place, middle, half, strict=True)]
    value = np.maximum(np.maximum(apart[0], apart[1]), apart[2])
    canvas.blend(np.clip(0.5 - value / canvas.voxel, 0, 1) * air, np.float32(rng.uniform(-400, 700)))


def cut_to_round_field(canvas: Canvas, rng: np.random.Generator) -> None:
    """Write what scanners write beyond a circle round the middle of the grid; labels end there too."""
    across, deep, _ = canvas.shape
    size = np.array([across, deep]) * canvas.spacing[:2]
    radius = size.max() / 2 * rng.uniform(0.98, 1.2)
    u = (np.arange(across) - (across - 1) / 2) * canvas.spacing[0]
    v = (np.arange(deep) - (deep - 1) / 2) * canvas.spacing[1]
    outside = np.hypot(u[:, None], v[None, :]) > radius
    canvas.hu[outside] = rng.choice(OUTSIDE_HU)
    canvas.labels[outside] = 0
