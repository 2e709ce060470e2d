"""Which part of the body is scanned, on what grid."""

from __future__ import annotations

import numpy as np

from datasets.errors import InputError
from datasets.phantom.people.features import Features
from datasets.phantom.people.pose import Placing

WINDOWS: dict[str, tuple[float, float]] = {  # lowest and highest point, mm of the standard adult
    "chest": (-300, 24),
    "head and neck": (-130, 285),
    "abdomen": (-460, -190),
    "chest to pelvis": (-640, 24),
    "pelvis": (-640, -400),
    "neck to hips": (-560, 60),
}
SHARES = {
    "chest": 0.18,
    "head and neck": 0.34,
    "abdomen": 0.2,
    "chest to pelvis": 0.12,
    "pelvis": 0.1,
    "neck to hips": 0.06,
}
FULL_WIDTH, FULL_DEPTH = 400.0, 300.0  # of the trunk with its fat
HEAD_WIDTH, HEAD_DEPTH = 480.0, 380.0


def draw_placing(
    features: Features, max_voxels: float, rng: np.random.Generator, window: str | None = None
) -> tuple[Placing, str]:
    """The grid and the name of its window, drawn where none is named.

    Spacings are 2.8 to 4.8 mm, and coarser where the voxels would be too many.  Of crops anywhere the name is that of
    the nearest window.  Raises InputError for an unknown window, and where ``max_voxels`` leaves no grid.
    """
    names = list(WINDOWS)
    drawn = str(rng.choice(names, p=[SHARES[n] for n in names]))
    name = window or (drawn if features.anatomy else "chest")
    if name not in WINDOWS:
        raise InputError(f"window {name!r} is not known; choose from {', '.join(WINDOWS)}")
    low, high = WINDOWS[name]
    size = np.array([HEAD_WIDTH, HEAD_DEPTH] if name == "head and neck" else [FULL_WIDTH, FULL_DEPTH]) * 1.02
    middle = np.zeros(2)
    spacing = np.array([3.5, 3.5, 3.5])
    if features.crops:
        whole = (-645.0, 290.0) if features.anatomy else (-330.0, 40.0)
        low, high = low + rng.normal(0, 35), high + rng.normal(0, 35)
        if rng.random() < 0.35:
            length = np.exp(rng.uniform(np.log(90), np.log(420)))
            low = rng.uniform(whole[0], max(whole[1] - length, whole[0] + 1))
            high = low + length
        low, high = max(low, whole[0]), min(high, whole[1])
        high = max(high, low + 80)
        name = nearest_window(low, high) if window is None else name
        size *= np.exp(rng.uniform(np.log(0.78), np.log(1.35)))
        size[1] *= rng.uniform(0.9, 1.3)
        if rng.random() < 0.5:
            size[:] = size.max()  # a square field
        middle = rng.normal(0, 12, 2)
        spacing = rng.uniform(2.8, 4.8, 3)
        spacing[1] = spacing[0]
    extent = np.array([*size, high - low])
    room = np.prod(extent / spacing) / max_voxels
    if room > 1:
        spacing = spacing * room ** (1 / 3)
    spacing = np.round(spacing, 3)
    shape = np.maximum(np.ceil(extent / spacing).astype(int), 8)
    if spacing.max() > 14:
        raise InputError(f"--max-voxels {max_voxels:.0f}: leaves voxels of {spacing.max():.0f} mm; give more")
    across, deep, tall = (int(n) for n in shape)
    return Placing((across, deep, tall), spacing, np.array([*middle, (low + high) / 2])), name


def nearest_window(low: float, high: float) -> str:
    """The window that has most in common with a range of heights: intersection over union."""

    def agreement(name: str) -> float:
        bottom, top = WINDOWS[name]
        return (min(high, top) - max(low, bottom)) / (max(high, top) - min(low, bottom))

    return max(WINDOWS, key=agreement)
