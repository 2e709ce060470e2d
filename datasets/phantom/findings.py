"""Findings of the phantom: heart, vessels, mediastinum, devices; and the order in which all 18 are painted.

A finding is painted into the volume and returned as a record of what was painted (side, count, size, place, grade). The
names and their order are those of the CT-RATE heads in data/diagnosis_heads.json. What each label means here:

- Medical material: a pacemaker, a port catheter, sternal wires or spinal rods of metal, with streaks in
  their slices (the streaks are not in the mask).
- Arterial wall calcification: plaques in the wall of the aorta.
- Coronary artery wall calcification: bright segments on the heart's surface.
- Cardiomegaly: cardiothoracic ratio above 0.58 (otherwise below 0.47). Its mask is the heart (`build_case`).
- Pericardial effusion: fluid round the heart. Pleural effusion: fluid in the dependent pleural space.
- Hiatal hernia: stomach with air and contrast medium behind the heart.
- Lymphadenopathy: calcified mediastinal or hilar nodes, in the standard adult 33 to 44 mm wide.
- Lung findings: see `datasets.phantom.lung_findings`. "Lung opacity" means ground-glass patches alone; dense, airless
  patches are "Consolidation", bands are "Atelectasis". The three are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from datasets.phantom import lung_findings as lungs
from datasets.phantom.anatomy import CHEST, CHEST_BASE, SIGN, STRUCTURES, Anatomy
from datasets.phantom.lesions import DISEASES, LESIONS, SITE_VALUES, Finding
from datasets.phantom.nodules import lung_nodule
from datasets.phantom.scene import AIR_HU, Scene
from datasets.phantom.shapes import Ellipsoid, Implicit, Tube, smooth_max
from datasets.phantom.sites import CORONARY_ARTERIES, STATIONS

HARD = [STRUCTURES[name] for name in ("heart", "aorta", "liver", "spleen", "spine", "ribs", "trachea")]
NODE_SIZES = (37.0, 44.0)
"""Range of a node's diameter in the standard adult, mm; an axis may be a tenth shorter."""
STREAK_HU = 600.0
"""Amplitude of the streaks beside metal."""


def medical_material(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Metal with streaks: a generator or a port in the front chest wall with its leads, sternal wires, or rods."""
    kind = str(rng.choice(["pacemaker", "port catheter", "sternal wires", "spinal rods"]))
    side, lesion = str(rng.choice(["left", "right"])), LESIONS["Medical material"]
    tubes: list[Tube] = []
    if kind in ("pacemaker", "port catheter"):
        x, z = SIGN[side] * rng.uniform(62, 78), rng.uniform(58, 76)
        a, b, c = CHEST + 17
        y = b * np.sqrt(max(1 - (x / a) ** 2 - ((z - CHEST_BASE) / c) ** 2, 0.05)) + 3
        axes = (36, 15, 32) if kind == "pacemaker" else (18, 14, 18)
        scene.paint(Ellipsoid((x, y, z), axes, (0, 0, -SIGN[side] * 28)), 2800.0, lesion=lesion)
        # a pacemaker's leads end in the right ventricle and in the right atrium, a port's catheter above the atrium
        ends = ([-22.0, 26, -42], [40.0, 22, -6]) if kind == "pacemaker" else ([23.0, 14, 38],)
        for end in ends:
            way = [[x, y, z], [SIGN[side] * 46, 40, 122], [23, 14, 96], [23, 14, 38], end]
            tubes.append(Tube(np.array(way), [4.5] * 5))
    elif kind == "sternal wires":
        side = ""
        for z in np.linspace(0, 88, 6) + rng.uniform(-4, 4):
            loop = [[-22.0, 102, z], [0, 111, z + 2], [22, 102, z], [0, 94, z - 2], [-22, 102, z]]
            tubes.append(Tube(np.array(loop), [7.5] * 5))
    else:
        side = ""
        low = rng.uniform(-120, -50)
        for sign in (-1, 1):
            tubes.append(Tube(np.array([[sign * 17.0, -94, low], [sign * 17.0, -94, low + 130]]), [8.5, 8.5]))
            for height in (low + 10, low + 65, low + 120):
                tubes.append(Tube(np.array([[sign * 17.0, -94, height], [sign * 9, -62, height]]), [6.5, 5.5]))
    for tube in tubes:
        scene.paint(tube, 2600.0, lesion=lesion)
    scene.add_streaks(scene.lesions == lesion, rng, STREAK_HU)
    return Finding("Medical material", side, kind=kind)


def arterial_calcification(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Plaques in the wall of the aorta, most of them in the arch and the descending part."""
    grade = str(rng.choice(["mild", "severe"]))
    number = int(rng.integers(5, 7)) if grade == "mild" else int(rng.integers(12, 16))
    aorta, points = anatomy.aorta(), anatomy.aorta_points()
    for _ in range(number):
        t = rng.uniform(1.5, len(points) - 2.2)
        at = points[int(t)] + (t - int(t)) * (points[int(t) + 1] - points[int(t)])
        way = rng.standard_normal(3)
        spot = Ellipsoid(at + way / np.linalg.norm(way) * anatomy.aorta_radius, rng.uniform(10, 15, 3))
        scene.paint(
            _in_wall(aorta, spot),
            rng.uniform(900, 1200),
            lesion=LESIONS["Arterial wall calcification"],
            bounds=spot.bounds,
            keep=[STRUCTURES["spine"], STRUCTURES["trachea"]],
        )
    return Finding("Arterial wall calcification", count=number, place="aorta", grade=grade)


def _in_wall(vessel: Tube, spot: Ellipsoid) -> Implicit:
    """What of a spot lies in the wall of a vessel, 7.2 mm thick."""
    return lambda x, y, z: np.maximum(np.abs(vessel(x, y, z) + 1.2) - 3.6, spot(x, y, z))


def coronary_calcification(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Bright segments along the three coronary arteries on the surface of the heart."""
    number = int(rng.integers(1, 4))
    chosen = sorted(rng.choice(list(CORONARY_ARTERIES), number, replace=False).tolist())
    for name in chosen:
        start, end = (np.array(v) for v in CORONARY_ARTERIES[name])
        for low in (0.0, 0.5):
            steps = np.linspace(low + rng.uniform(0, 0.08), low + rng.uniform(0.40, 0.48), 5)
            path = np.stack([anatomy.heart.point(start + s * (end - start)) for s in steps])
            scene.paint(
                Tube(path, [10.0] * 5),
                rng.uniform(900, 1200),
                lesion=LESIONS["Coronary artery wall calcification"],
                site=SITE_VALUES["Coronary artery wall calcification"][name],
                keep=[STRUCTURES["aorta"], STRUCTURES["trachea"]],
            )
    return Finding("Coronary artery wall calcification", count=number, place=", ".join(chosen), sites=chosen)


def pericardial_effusion(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Fluid between the heart and its sac, thickest below and at the sides."""
    grade = str(rng.choice(["small", "large"]))
    thickness = rng.uniform(15, 18) if grade == "small" else rng.uniform(28, 34)
    heart = anatomy.heart
    a, b, c = heart.axes
    centre = np.array(heart.centre) + [0, 0.15 * thickness, -0.25 * thickness]
    sac = Ellipsoid(centre, (a + thickness, b + 0.75 * thickness, c + 0.8 * thickness), heart.angles)

    def fluid(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.maximum(smooth_max(sac(x, y, z), anatomy.chest(x, y, z, -1.0), 6.0), -heart(x, y, z))

    scene.paint(
        fluid, rng.uniform(0, 12), structure=0, lesion=LESIONS["Pericardial effusion"], keep=HARD, bounds=sac.bounds
    )
    return Finding("Pericardial effusion", size_mm=thickness * scene.pose.mean_scale, grade=grade)


def hiatal_hernia(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """Stomach in the chest, between heart and spine: air in front, and behind it fluid with swallowed contrast."""
    size = rng.uniform(26, 34, 3) / scene.pose.mean_scale * np.array([1.1, 0.8, 0.95])
    centre = np.array([rng.uniform(-14, 10), -40.0, -46.0]) + rng.uniform(-4, 4, 3)
    sac, lesion = Ellipsoid(centre, size), LESIONS["Hiatal hernia"]
    level = np.float32(centre[1] + rng.uniform(-2, 5))
    contrast = rng.uniform(320, 420)
    scene.paint(sac, 75.0, structure=0, lesion=lesion, keep=HARD)
    scene.paint(
        sac.grown(-4.5),
        lambda x, y, z: np.where(y > level, np.float32(AIR_HU + 60), np.float32(contrast)),
        lesion=lesion,
        keep=HARD,
    )
    return Finding("Hiatal hernia", size_mm=float(2 * size.max() * scene.pose.mean_scale))


def lymphadenopathy(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """One to four enlarged, calcified nodes in different stations of the mediastinum and the hila."""
    number = int(rng.integers(1, 5))
    # a large heart reaches some stations, where a node could not be told apart
    free = [name for name, centre in STATIONS.items() if anatomy.heart(*np.array(centre, np.float32)) > 5]
    chosen = sorted(rng.choice(free, min(number, len(free)), replace=False).tolist())
    largest = 0.0
    for name in chosen:
        diameter = rng.uniform(*NODE_SIZES)
        centre = np.array(STATIONS[name]) + rng.uniform(-3, 3, 3)
        axes = diameter / 2 * rng.uniform(0.9, 1.0, 3)
        scene.paint(
            Ellipsoid(centre, axes),
            rng.uniform(620, 680),
            structure=0,
            lesion=LESIONS["Lymphadenopathy"],
            site=SITE_VALUES["Lymphadenopathy"][name],
            keep=HARD,
        )
        largest = max(largest, float(2 * (axes * scene.pose.scale).max()))
    return Finding("Lymphadenopathy", count=len(chosen), size_mm=largest, place=", ".join(chosen), sites=chosen)


def cardiomegaly(scene: Scene, anatomy: Anatomy, rng: np.random.Generator) -> Finding:
    """The record alone: the heart itself was painted large."""
    width = 2 * anatomy.heart.axes[0] * scene.pose.scale[0]
    return Finding("Cardiomegaly", size_mm=float(width), kind=f"{anatomy.cardiothoracic_ratio:.2f}")


PAINTERS: dict[str, Callable[[Scene, Anatomy, np.random.Generator], Finding]] = {
    "Cardiomegaly": cardiomegaly,
    "Pericardial effusion": pericardial_effusion,
    "Hiatal hernia": hiatal_hernia,
    "Lymphadenopathy": lymphadenopathy,
    "Pleural effusion": lungs.pleural_effusion,
    "Mosaic attenuation pattern": lungs.mosaic_attenuation,
    "Interlobular septal thickening": lungs.septal_thickening,
    "Emphysema": lungs.emphysema,
    "Pulmonary fibrotic sequela": lungs.fibrotic_sequela,
    "Bronchiectasis": lungs.bronchiectasis,
    "Peribronchial thickening": lungs.peribronchial_thickening,
    "Consolidation": lungs.consolidation,
    "Lung opacity": lungs.lung_opacity,
    "Atelectasis": lungs.atelectasis,
    "Lung nodule": lung_nodule,
    "Arterial wall calcification": arterial_calcification,
    "Coronary artery wall calcification": coronary_calcification,
    "Medical material": medical_material,
}
"""Painted in this order: what fills space first, then patterns of the whole lung, then what needs a free place."""


def paint_findings(
    scene: Scene, anatomy: Anatomy, present: Collection[str], stream: Callable[[str], np.random.Generator]
) -> dict[str, Finding]:
    """Paint the findings that are present; gives their records in the order of ``DISEASES``.

    Args:
        stream: gives each finding a random generator of its own, so that it is drawn alike whatever else is present.
    """
    painted = {name: paint(scene, anatomy, stream(name)) for name, paint in PAINTERS.items() if name in present}
    voxel_ml = float(np.prod(scene.spacing)) / 1000
    counts = np.bincount(scene.lesions.ravel(), minlength=len(DISEASES) + 1)
    for name, finding in painted.items():
        finding.volume_ml = float(counts[LESIONS[name]]) * voxel_ml
    return {name: painted[name] for name in DISEASES if name in painted}
