"""What the findings of the phantom share: names, label values, the record of one finding, sides, places, painting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count

import numpy as np

from datasets.phantom.anatomy import LUNG_LABELS
from datasets.phantom.scene import LungEffect, Scene
from datasets.phantom.shapes import Bounds, Implicit
from datasets.phantom.sites import SITES

DISEASES: tuple[str, ...] = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
"""The CT-RATE diseases in the order of data/diagnosis_heads.json."""
LESIONS: dict[str, int] = {name: value for value, name in enumerate(DISEASES, start=1)}
"""Label values of the lesion maps. Where the heart is enlarged, it is Cardiomegaly but for the lesions inside it."""
LATERAL = (
    "Emphysema", "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis",
)  # fmt: skip
"""What is on one side or on both; in a written lesion map the right part has values of its own."""
RIGHT_OFFSET = len(DISEASES)
_free_values = count(2 * RIGHT_OFFSET + 1)
SITE_VALUES: dict[str, dict[str, int]] = {
    name: {site: next(_free_values) for site in sites} for name, sites in SITES.items()
}
"""Values of the sites of a finding that is counted; in a written lesion map they stand in place of its own."""
DIFFUSE = ("Emphysema", "Mosaic attenuation pattern", "Interlobular septal thickening")
"""Patterns of the whole lung, which other findings may lie in."""
SOLID: list[int] = [value for name, value in LESIONS.items() if name not in DIFFUSE]
ZONE_BORDER = 30.0  # height in the standard adult between the upper and the lower zone of the lungs
ZONE_GAP = 18.0  # mm from the border to a centre: nearer ones lie in both zones as far as a reader can tell


def side_label(side: str, name: str) -> str:
    """What pretraining calls the left or the right part of a finding."""
    return f"{side} {name.lower()}"


def lesion_parts(name: str) -> dict[str, list[int]]:
    """What pretraining calls the parts of a finding, with their values in a written lesion map: sides, sites."""
    sites = SITE_VALUES.get(name, {})
    parts = {SITES[name][site]: [value] for site, value in sites.items()}
    if name in LATERAL:
        for number, side in enumerate(("left", "right")):
            own = [value for site, value in sites.items() if site.startswith(side)]  # where sites are told apart
            parts[side_label(side, name)] = own or [LESIONS[name] + number * RIGHT_OFFSET]
    return parts


def lesion_values(name: str) -> list[int]:
    """All values of a finding in a written lesion map."""
    return sorted({value for values in lesion_parts(name).values() for value in values}) or [LESIONS[name]]


@dataclass
class Finding:
    """What was painted. side: left, right, both or "" (midline); size_mm: largest diameter or thickness, scanner mm.

    place: the largest's, or all of them as a report names them; sites: each that holds one, where they are counted.
    """

    name: str
    side: str = ""
    count: int = 1
    size_mm: float = 0.0
    place: str = ""
    grade: str = ""
    kind: str = ""
    volume_ml: float = 0.0
    sites: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """The record as JSON-able values."""
        return asdict(self)


def draw_side(rng: np.random.Generator) -> str:
    """left, right or both with the same probability."""
    return str(rng.choice(["left", "right", "both"]))


def sides_of(side: str) -> list[str]:
    """The sides that a side word stands for."""
    return ["left", "right"] if side == "both" else [side]


def joint_side(sides: list[str]) -> str:
    """The side word for a list of sides."""
    return sides[0] if len(set(sides)) == 1 else "both"


def zone(height: float) -> str:
    """upper or lower zone of the lung for a height in the standard adult's frame."""
    return "upper" if height > ZONE_BORDER else "lower"


def free_place(
    scene: Scene,
    rng: np.random.Generator,
    side: str,
    clearance_mm: float,
    accept: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, float]:
    """A random point of one lung with at least ``clearance_mm`` to its border and to other solid findings.

    Args:
        accept: filter on points (n, 3) of the phantom frame, gives booleans (n,).
    Returns the point and its clearance in mm; where no point has that much room, the roomiest point.
    """
    points, room = scene.free_sites([LUNG_LABELS[side]], SOLID)
    if accept is not None and np.any(chosen := accept(points)):
        points, room = points[chosen], room[chosen]
    fits = np.flatnonzero(room >= clearance_mm)
    index = int(rng.choice(fits)) if len(fits) else int(np.argmax(room))
    return points[index], float(room[index])


def paint_in_lung(
    scene: Scene,
    side: str,
    name: str | None,
    shape: Implicit,
    hu: float,
    lung: LungEffect = "inside",
    *,
    structure: int | None = None,
    site: int = 0,
    keep_lesions: Sequence[int] = (),
    strength: float = 1.0,
    blur: float = 0.0,
    bounds: Bounds | None = None,
) -> None:
    """Paint into one lung, as `Scene.paint`; ``name`` is the finding whose label the voxels get."""
    scene.paint(
        shape,
        hu,
        structure=structure,
        lesion=LESIONS[name] if name else None,
        site=site,
        keep=[LUNG_LABELS[one] for one in LUNG_LABELS if one != side],
        keep_lesions=keep_lesions,
        lung=lung,
        strength=strength,
        blur=blur,
        bounds=bounds,
    )


def any_zone(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A filter for ``free_place``: the upper or the lower zone with the same probability, clear of their border."""
    sign = rng.choice([-1.0, 1.0])
    return lambda points: (points[:, 2] - ZONE_BORDER) * sign > ZONE_GAP


def outside(
    balls: Sequence[tuple[np.ndarray, float]], accept: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """A filter for ``free_place``: what ``accept`` takes outside all balls, each a centre and a radius."""
    return lambda points: np.logical_and.reduce(
        [accept(points), *(np.linalg.norm(points - centre, axis=1) > radius for centre, radius in balls)]
    )
