"""HU of the tissues: fixed ones of a portal-venous scan, or drawn for each patient, with or without contrast agent.

Ranges are meant to be a little wider than those of patients, so that no tissue is known by its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.phantom.people.features import Features

Phase = Literal["none", "arterial", "portal"]
PHASES: tuple[Phase, ...] = ("none", "arterial", "portal")
PHASE_SHARES = (0.5, 0.15, 0.35)

# lowest and highest HU without agent, and what a full dose adds in the arterial and in the portal-venous phase
RANGES: dict[str, tuple[float, float, float, float]] = {
    "lung": (-930, -720, 8, 15),
    "fat": (-125, -85, 0, 2),
    "skin": (-30, 50, 5, 10),
    "muscle": (15, 60, 5, 15),
    "blood": (32, 52, 260, 110),  # of the left heart and the arteries
    "venous blood": (32, 52, 60, 105),
    "heart muscle": (32, 52, 50, 60),
    "liver": (20, 70, 12, 55),
    "spleen": (32, 55, 60, 75),
    "kidney": (8, 40, 90, 140),
    "pancreas": (-25, 45, 50, 50),
    "bowel": (5, 50, 15, 35),
    "stomach": (5, 45, 5, 10),
    "bile": (-8, 22, 0, 0),
    "urine": (-8, 22, 0, 5),
    "pelvic organs": (25, 50, 15, 40),
    "esophagus": (10, 42, 10, 25),
    "brain": (22, 42, 2, 4),
    "brainstem": (-14, 26, 2, 4),
    "cord": (-12, 32, 2, 4),
    "fluid of the canal": (-5, 25, 0, 2),
    "gland": (-85, 15, 10, 18),
    "thyroid": (60, 130, 70, 60),
    "larynx": (-45, 40, 10, 20),
    "cartilage": (60, 180, 0, 0),
    "marrow": (50, 260, 5, 10),
    "cortical bone": (350, 1100, 0, 0),
    "skull bone": (700, 1600, 0, 0),
    "teeth": (1400, 2700, 0, 0),
    "stool": (-120, 60, 0, 0),
}
FIXED: dict[str, float] = {"marrow": 280, "cortical bone": 620, "skull bone": 1000, "lung": -770, "liver": 110}


@dataclass(frozen=True)
class Tissues:
    """HU of every tissue in one patient. phase: which agent, if any."""

    hu: dict[str, float]
    phase: Phase

    @classmethod
    def draw(cls, features: Features, rng: np.random.Generator) -> Tissues:
        """Drawn where the contrast is switched on; else the middle of the ranges in the portal-venous phase."""
        phase = str(rng.choice(PHASES, p=PHASE_SHARES))
        dose = rng.uniform(0.5, 1.3)
        hu = {}
        for name, (low, high, arterial, portal) in RANGES.items():
            drawn = rng.uniform(low, high) + dose * {"none": 0, "arterial": arterial, "portal": portal}[phase]
            hu[name] = drawn if features.contrast else FIXED.get(name, (low + high) / 2 + portal)
        return cls(hu, phase if features.contrast else "portal")  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> float:
        return self.hu[name]
