"""One person phantom: from a seed, an index and the switches to voxels and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from datasets.phantom.case import HU_RANGE, ORIENTATIONS, stream
from datasets.phantom.people import abdomen, chest, head_neck, skeleton
from datasets.phantom.people.body import Build, paint_body, paint_cavity
from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.features import Features
from datasets.phantom.people.muscles import paint_muscles
from datasets.phantom.people.placing import Variation
from datasets.phantom.people.pose import body_coordinates
from datasets.phantom.people.scanner import scan
from datasets.phantom.people.surroundings import cut_to_round_field, paint_surroundings
from datasets.phantom.people.tissues import Tissues
from datasets.phantom.people.windows import draw_placing

MAX_VOXELS = 1.9e6


@dataclass
class Person:
    """A volume in stored orientation: ct int16 HU, labels uint8 of `structures.VALUES`; window: part of the body."""

    ct: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    orientation: str
    window: str
    phase: str
    arms: str


def build_person(
    seed: int,
    index: int,
    features: Features | None = None,
    max_voxels: float = MAX_VOXELS,
    orientations: tuple[str, ...] = ORIENTATIONS,
    window: str | None = None,
) -> Person:
    """Build one phantom; every part has a random stream of its own, as `datasets.phantom.case` has them.

    window: a part of the body by its name; None draws one.
    Raises InputError for an unknown window, and where ``max_voxels`` are too few for a grid.
    """
    features = features or Features()

    def rng(name: str) -> np.random.Generator:
        return stream(seed, index, f"people {name}")

    placing, name = draw_placing(features, max_voxels, rng("window"), window)
    canvas = Canvas(body_coordinates(placing, features, rng("pose")), placing.spacing)
    tissues = Tissues.draw(features, rng("tissues"))
    build = Build.draw(features, rng("build"))
    skin, metal = paint_person(canvas, build, tissues, features, Variation(rng("organs"), float(features.shape)))
    if features.surroundings:
        paint_surroundings(canvas, skin, rng("surroundings"))
    scan(canvas, skin, metal, features, rng("scanner"))
    field = rng("field")
    if features.surroundings and field.random() < 0.3:
        cut_to_round_field(canvas, field)
    code = str(field.choice(orientations))
    way = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    affine = np.diag([*placing.spacing, 1.0])
    affine[:3, 3] = np.round(field.uniform(-150, 150, 3), 2)
    ct = np.clip(np.rint(canvas.hu), *HU_RANGE).astype(np.int16)
    return Person(
        ct=np.asfortranarray(apply_orientation(ct, way)),
        labels=np.asfortranarray(apply_orientation(canvas.labels, way)),
        affine=affine @ inv_ornt_aff(way, canvas.shape),
        orientation=code,
        window=name,
        phase=tissues.phase,
        arms=build.arms,
    )


def paint_person(
    canvas: Canvas, build: Build, tissues: Tissues, features: Features, vary: Variation
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a body; gives the distance to its skin (mm, negative inside) and the places (n, 3) of metal."""
    layers = features.layers
    skin = paint_body(canvas, build, tissues, features, vary.rng)
    inside = paint_cavity(canvas, tissues, layers)
    if layers:
        paint_muscles(canvas, tissues)
    domes = chest.diaphragm(vary)
    if inside is not None:
        chest.paint_lungs(canvas, inside, tissues, vary, domes, layers)
        abdomen.paint_bowel(canvas, tissues, vary, layers)
        abdomen.paint_stomach(canvas, tissues, vary, layers)
        abdomen.paint_pelvic_organs(canvas, tissues, vary, build.female)
        chest.paint_heart(canvas, tissues, vary)
    skeleton.paint_pelvis(canvas, tissues)
    skeleton.paint_spine(canvas, tissues, layers)
    if inside is not None:
        abdomen.paint_upper_abdomen(canvas, inside, tissues, vary, domes)
        chest.paint_great_vessels(canvas, tissues, vary)
    skeleton.paint_chest_wall(canvas, inside, tissues, vary.amount * vary.rng.random())
    skeleton.paint_shoulders(canvas, build, tissues)
    head_neck.paint_head(canvas, tissues, vary, layers)
    head_neck.paint_neck(canvas, tissues, vary)
    chest.paint_airways(canvas, tissues, vary)
    metal = head_neck.paint_jaws(canvas, tissues, vary)
    head_neck.paint_cord(canvas, tissues, vary)
    if vary.chance(0.12):  # an artificial hip, some clips
        metal = np.vstack(
            [metal, [[vary.rng.choice((-1, 1)) * 96, 2, -548]], vary.rng.normal(0, 40, (2, 3)) + (0, 0, -330)]
        )
    canvas.labels[skin > 0] = 0
    return skin, metal
