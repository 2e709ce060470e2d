"""How much lung a scan of head and neck holds, by HU.

Lung is the largest connected part of what lies inside the body, is between -950 and -400 HU and is wider than two
voxels of a slice.  Air in the pharynx, the trachea and the sinuses is darker, and its edges are thinner: what is left
of them is below 14 ml in all 203 patients of OpenKBP, and the least that was seen of apices 19 ml.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from datasets.prepare.case import Question
from datasets.prepare.head_neck.patient import UP, Patient
from datasets.prepare.head_neck.wording import asked_as, yes_no

KIND = "lung_apices"
WORDINGS = (
    "Does the scan reach the lung apices?",
    "Are the lung apices in the field of view?",
    "Can the top of the lungs be seen?",
)
BODY_HU = -300.0
LUNG_HU = (-950.0, -400.0)
LEAST_ML, MOST_ML_WITHOUT = 16.0, 8.0


@dataclass(frozen=True)
class Lungs:
    """volume_ml: of the lung in the scan.  depth_mm: from its apex down to its lowest slice in the scan."""

    volume_ml: float
    depth_mm: float

    @property
    def seen(self) -> bool | None:
        """Whether the scan reaches the apices; None where that is not clear."""
        if self.volume_ml >= LEAST_ML:
            return True
        return False if self.volume_ml <= MOST_ML_WITHOUT else None


def lung_apices(lungs: Lungs, draw: random.Random, training: bool = False) -> list[Question]:
    """Whether the scan reaches the apices, in one or in all wordings; no question where that is not clear."""
    if lungs.seen is None:
        return []
    return [yes_no(KIND, text, lungs.seen) for text in asked_as(WORDINGS, draw, training)]


def inside_body(hu: np.ndarray) -> np.ndarray:
    """Of (H, W, D) in HU the body with the air that it encloses in each axial slice."""
    body = hu > BODY_HU
    for k in range(body.shape[UP]):
        body[:, :, k] = ndimage.binary_fill_holes(body[:, :, k])
    return body


def find_lungs(patient: Patient) -> Lungs:
    """The lung of a patient's scan, as above."""
    hu = patient.hu
    lung = (hu > LUNG_HU[0]) & (hu < LUNG_HU[1]) & inside_body(hu)
    lung = ndimage.binary_opening(lung, np.ones((3, 3, 1)))
    parts, count = ndimage.label(lung)
    if count == 0:
        return Lungs(0.0, 0.0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    slices = np.flatnonzero((parts == sizes.argmax()).any(axis=(0, 1)))
    depth = (slices[-1] - slices[0] + 1) * patient.spacing[UP]
    return Lungs(float(sizes.max()) * patient.voxel_ml, float(depth))
