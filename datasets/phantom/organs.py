"""Paints the healthy patient that `datasets.phantom.anatomy` describes into the voxel grid."""

from __future__ import annotations

import numpy as np

from datasets.phantom.anatomy import CHEST, LUNG_LABELS, SIGN, STRUCTURES, Anatomy
from datasets.phantom.scene import AIR_HU, Scene
from datasets.phantom.shapes import Ellipsoid, Implicit, Tube, smooth_max


def paint_anatomy(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Paint the healthy patient into an empty scene: trunk, abdomen, lungs, mediastinum, bones, pulmonary vessels."""
    _paint_trunk(scene, anatomy)
    _paint_abdomen(scene, anatomy, rng)
    for side, label in LUNG_LABELS.items():
        lung = anatomy.lung(side)
        # blood pools at the back: lung is denser there
        scene.paint(
            lung, lambda x, y, z: np.float32(anatomy.hu["lung"]) - np.float32(0.25) * y, structure=label, lung="make"
        )
    _paint_mediastinum(scene, anatomy)
    _paint_bones(scene, anatomy)
    _paint_vessels(scene, rng)


def _paint_trunk(scene: Scene, anatomy: Anatomy) -> None:
    a, b = anatomy.body
    full = (np.array([-a - 4, -b - 30, -400]), np.array([a + 4, b + 4, 400]))

    def trunk(inset: float) -> Implicit:
        def shape(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
            rise = np.clip((z - 95) / 75, 0, 1)
            width = 1 - np.float32(0.30) * rise * rise  # shoulders narrow towards the neck
            u, v = np.abs(x) / (np.float32(a - inset) * width), np.abs(y) / np.float32(b - inset)
            power = u * u * np.sqrt(u) + v * v * np.sqrt(v)  # superellipse of exponent 2.5
            return (np.sqrt(power) - 1) * np.float32(100)

        return shape

    if anatomy.table:
        table = Ellipsoid((0, -b - 16, 0), (150, 11, 1e4))
        scene.paint(lambda x, y, z: np.maximum(table(x, y, z), y + np.float32(b + 10)), -420.0, bounds=full)
    scene.paint(trunk(0), anatomy.hu["fat"], bounds=full)
    scene.paint(trunk(anatomy.fat), anatomy.hu["muscle"], bounds=full)
    inner = (np.array([-CHEST[0], -CHEST[1], -400]), np.array([CHEST[0], CHEST[1], 140]))
    scene.paint(anatomy.chest, anatomy.hu["fat"], bounds=inner)


def _paint_abdomen(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> None:
    hu, organs = anatomy.hu, anatomy.organs

    def in_chest(shape: Ellipsoid) -> Implicit:
        return lambda x, y, z: smooth_max(shape(x, y, z), anatomy.chest(x, y, z, -2.0), 8.0)

    for _ in range(14):  # bowel
        centre = (rng.uniform(-95, 95), rng.uniform(-5, 70), rng.uniform(-175, -128))
        loop = Ellipsoid(centre, rng.uniform(11, 20, 3))
        scene.paint(in_chest(loop), rng.uniform(15, 50), bounds=loop.bounds)
    stomach = organs["stomach"]
    scene.paint(in_chest(stomach), 70.0, bounds=stomach.bounds)
    level = np.float32(stomach.centre[1] + rng.uniform(10, 20))
    lumen = stomach.grown(-5)
    scene.paint(
        in_chest(lumen),
        lambda x, y, z: np.where(y > level, np.float32(-900), np.float32(hu["stomach"])),
        bounds=lumen.bounds,
    )
    spleen = organs["spleen"]
    scene.paint(in_chest(spleen), hu["spleen"], structure=STRUCTURES["spleen"], bounds=spleen.bounds)
    right, left = organs["liver"], organs["left lobe"]
    low = np.minimum(right.bounds[0], left.bounds[0])
    high = np.maximum(right.bounds[1], left.bounds[1])

    def liver(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        both = -smooth_max(-right(x, y, z), -left(x, y, z), 12.0)
        return smooth_max(both, anatomy.chest(x, y, z, -2.0), 8.0)

    scene.paint(liver, hu["liver"], structure=STRUCTURES["liver"], bounds=(low, high))
    for name in ("left kidney", "right kidney"):
        kidney = organs[name]
        scene.paint(kidney.grown(6), hu["fat"], structure=0)
        scene.paint(kidney, hu["kidney"], structure=STRUCTURES[name])
        hilum = np.array(kidney.centre) + [-np.sign(kidney.centre[0]) * 9, 5, 0]
        scene.paint(Ellipsoid(hilum, (10, 8, 20), kidney.angles), -40.0)


def _paint_mediastinum(scene: Scene, anatomy: Anatomy) -> None:
    hu, heart = anatomy.hu, anatomy.heart
    blood, wall = hu["blood"], 110.0
    airway = {"trachea": Tube(np.array([[2.0, -8, 170], [2, -10, 100], [2, -14, 38]]), [9.0, 9, 9])}
    airway["left"] = Tube(np.array([[2.0, -14, 38], [-38, -12, 10]]), [7.0, 5.0])
    airway["right"] = Tube(np.array([[2.0, -14, 38], [38, -12, 14]]), [7.5, 5.5])
    for tube in airway.values():
        scene.paint(Tube(tube.points, np.array(tube.radii) + 2.0), 20.0, structure=0)
    for x, points in ((8, [[22.0, 14, 150], [24, 14, 10]]), (6, [[4.0, -30, 170], [2, -34, -50]])):
        scene.paint(Tube(np.array(points), [x, x]), blood if x == 8 else 40.0, structure=0)  # vena cava, oesophagus
    trunk = Tube(np.array([[-12.0, 34, 8], [-14, 12, 28], [-40, -2, 16]]), [13.0, 11, 8])
    branch = Tube(np.array([[-14.0, 12, 26], [14, 2, 18], [40, -2, 14]]), [10.0, 9, 8])
    for tube in (trunk, branch):
        scene.paint(tube, blood, structure=0)
    scene.paint(anatomy.aorta(), blood, structure=STRUCTURES["aorta"])
    scene.paint(heart, wall, structure=STRUCTURES["heart"], keep=[STRUCTURES["aorta"]])
    a, b, c = heart.axes
    for u, v, w, size in (
        (-0.42, -0.22, -0.12, 0.42),
        (0.05, 0.42, -0.15, 0.40),
        (0.48, -0.05, 0.1, 0.36),
        (-0.1, -0.5, 0.35, 0.34),
    ):
        centre = np.array(heart.centre) + [u * a, v * b, w * c]
        chamber = Ellipsoid(centre, (size * a * 1.05, size * b * 1.1, size * c * 1.35), (0, 15, -30))
        scene.paint(chamber, blood, keep=[STRUCTURES["aorta"]])
    for tube in airway.values():
        scene.paint(tube, AIR_HU + 15, structure=STRUCTURES["trachea"])


def _paint_bones(scene: Scene, anatomy: Anatomy) -> None:
    bone, cortical = anatomy.hu["bone"], anatomy.hu["cortical bone"]
    phase = np.float32(anatomy.rib_phase)

    def ribs(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        shell = np.abs(anatomy.chest(x, y, z, 7.0)) - 3.6
        height = np.mod(z + np.float32(0.38) * y + phase, 24) - 12  # a rib falls from the spine to the front
        gap = np.maximum(24 - np.abs(x), y - 80)
        return np.maximum(np.maximum(shell, np.abs(height) - 5.2), np.maximum(gap, -z - 128))

    wall = CHEST + 14
    scene.paint(
        ribs,
        cortical,
        structure=STRUCTURES["ribs"],
        bounds=(np.array([-wall[0], -wall[1], -128.0]), np.array([wall[0], wall[1], 145.0])),
    )
    scene.paint(Ellipsoid((0, 102, 42), (17, 6, 62)), cortical)
    for side in (-1, 1):
        scene.paint(
            Ellipsoid((side * 98, -94, 78), (34, 4.5, 46), (0, 0, side * 22)), cortical, keep=[STRUCTURES["ribs"]]
        )

    def column(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        body = np.sqrt((x / 21) ** 2 + ((y + 70) / 17) ** 2) * 17 - 17
        arch = np.sqrt(x * x + (y + 92) ** 2) - 14
        process = np.maximum(np.maximum(np.abs(x) - 4, np.abs(y + 106) - 10), np.abs(np.mod(z, 26) - 13) - 9)
        wing = np.maximum(np.maximum(np.abs(x) - 34, np.abs(y + 92) - 5), np.abs(np.mod(z, 26) - 13) - 6)
        canal = 8.5 - np.sqrt(x * x + (y + 92) ** 2)
        return np.maximum(np.minimum(np.minimum(body, arch), np.minimum(process, wing)), canal)

    low, high = np.array([-36.0, -118, -400]), np.array([36.0, -50, 400])
    box = (low, high)
    scene.paint(
        column,
        lambda x, y, z: np.where((np.abs(np.mod(z, 26) - 13) < 10.5) | (y < -86), np.float32(bone), np.float32(85)),
        structure=STRUCTURES["spine"],
        keep=[STRUCTURES["aorta"]],
        bounds=box,
    )
    scene.paint(lambda x, y, z: np.sqrt(x * x + (y + 92) ** 2) - 8.0, 25.0, structure=0, bounds=box)


def _paint_vessels(scene: Scene, rng: np.random.Generator) -> None:
    """Pulmonary vessels: tapering branches from each hilum into the lung; they stay lung in the label map."""
    for side in ("left", "right"):
        for _ in range(16):
            root = np.array([SIGN[side] * 36.0, -2.0, 14.0]) + rng.uniform(-5, 5, 3)
            polar, around = np.arccos(rng.uniform(-0.95, 0.95)), rng.uniform(-1.9, 1.9)
            way = np.array([SIGN[side] * np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)])
            length = rng.uniform(45, 70)
            fork = root + way * length
            scene.paint(Tube(np.stack([root, fork]), [rng.uniform(2.4, 3.4), 1.9]), 60.0, lung="inside")
            for _ in range(3):
                bend = way + rng.uniform(-0.6, 0.6, 3)
                end = fork + bend / np.linalg.norm(bend) * rng.uniform(25, 45)
                scene.paint(Tube(np.stack([fork, end]), [1.8, 1.0]), 40.0, lung="inside")
