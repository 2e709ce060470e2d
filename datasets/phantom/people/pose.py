"""Where each voxel lies in the standard adult: pose of the body in the scanner, bends of spine and neck, displacement.

The standard adult's frame is RAS in mm: x to the patient's right, y forwards, z upwards; z = 0 is the top of the first
thoracic vertebra, x = 0 the midline, y = 0 about the middle of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.phantom.people.features import Features
from datasets.phantom.people.fields import smooth_field
from datasets.phantom.people.profiles import HEIGHTS, Profile, rows_of
from datasets.phantom.shapes import rotation


@dataclass(frozen=True)
class Placing:
    """The grid in the scanner. centre: what point of the standard adult lies at the grid's centre, mm."""

    shape: tuple[int, int, int]
    spacing: np.ndarray
    centre: np.ndarray


@dataclass(frozen=True)
class Bends:
    """Shifts (mm) of the body along its height, and the turn of the head (radians)."""

    sideways: Profile
    forwards: Profile
    turn: Profile


def draw_bends(features: Features, rng: np.random.Generator) -> Bends:
    """A crooked back and a nodding, turned head; none of it where the pose is not switched on."""
    on = float(features.pose)
    phase, wave = rng.uniform(0, 2 * np.pi, 2), rng.uniform(260, 520, 2)
    bend = on * np.minimum(np.abs(rng.standard_normal(2)), 2) * np.array([5.0, 8.0])
    sideways, forwards = (
        size * np.sin(HEIGHTS / length * 2 * np.pi + start)
        for size, length, start in zip(bend, wave, phase, strict=True)
    )
    neck = np.maximum(HEIGHTS, 0.0)
    nod, lean = on * rng.normal(0, 0.10), on * rng.normal(0, 0.03)
    forwards = forwards + nod * neck * np.clip(neck / 80, 0, 1)
    turn = on * np.deg2rad(rng.normal(0, 6)) * np.clip(HEIGHTS / 100, 0, 1)
    return Bends(*(Profile.of_table(part) for part in (sideways + lean * neck, forwards, turn)))


def body_coordinates(
    placing: Placing, features: Features, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, z (mm, float32, of the grid's shape) of every voxel in the standard adult's frame."""
    scale = rng.uniform(0.84, 1.14) * rng.uniform(0.94, 1.06, 3) if features.pose else np.ones(3)
    turn = rotation(rng.normal(0, 1, 3) * (3, 3, 5)) if features.pose else np.eye(3)
    bends = draw_bends(features, rng)
    matrix = turn.T / scale[:, None]
    start = placing.centre - matrix @ ((np.asarray(placing.shape) - 1) / 2 * placing.spacing)
    steps = [np.arange(n) * s for n, s in zip(placing.shape, placing.spacing, strict=True)]
    x, y, z = (
        (start[p] + matrix[p, 0] * steps[0][:, None, None])
        .astype(np.float32) + (matrix[p, 1] * steps[1][:, None] + matrix[p, 2] * steps[2]).astype(np.float32)
        for p in range(3)
    )  # fmt: skip
    if features.shape:
        for coarse, sigma in ((90.0, 5.0), (38.0, 1.8)):
            for part in (x, y, z):
                part += smooth_field(placing.shape, coarse / placing.spacing, rng, sigma)
    if features.pose:
        rows = rows_of(z)
        x -= bends.sideways.take(rows)
        y -= bends.forwards.take(rows)
        angle = bends.turn.take(rows)
        cosine, sine = 1 - angle * angle / 2, angle  # small angles
        x, y = cosine * x + sine * y, cosine * y - sine * x
    return x, y, z
