"""Whether there is metal in the teeth, by what is above 2,500 HU in the slices of the mandible.

Metal reaches the scanners' upper limit, which is near 3,000 HU in OpenKBP: how dense it is beyond that is not known,
but how much there is of it.  Teeth without it, and markers on the skin, give up to 2 ml in voxels of 4 mm; above that
fillings and crowns are plain in the pictures of all patients who were looked at, and streaks in those of most.  Dark
streaks are no measure of their own: the edges of air give as many voxels of -250 HU.
"""

from __future__ import annotations

import random

import numpy as np

from datasets.prepare.case import Question
from datasets.prepare.head_neck.levels import ends
from datasets.prepare.head_neck.patient import Patient
from datasets.prepare.head_neck.wording import asked_as, yes_no

KIND = "dental_metal"
WORDINGS = ("Is there dental metal in this scan?", "Are there metal fillings or crowns?", "Do the teeth hold metal?")
MANDIBLE = "mandible"
METAL_HU = 2500.0
LEAST_ML, MOST_ML_WITHOUT = 2.0, 0.05  # what lies between is left out


def dental_metal(patient: Patient, draw: random.Random, training: bool = False) -> list[Question]:
    """One question in one or in all wordings; none where the mandible was not contoured, or the answer is not clear."""
    metal = metal_ml(patient)
    if metal is None or MOST_ML_WITHOUT < metal < LEAST_ML:
        return []
    return [yes_no(KIND, text, metal >= LEAST_ML) for text in asked_as(WORDINGS, draw, training)]


def metal_ml(patient: Patient) -> float | None:
    """Volume above 2,500 HU in the slices of the mandible; None where the mandible was not contoured."""
    if MANDIBLE not in patient.organs:
        return None
    low, high = ends(patient, MANDIBLE)
    return float(np.count_nonzero(patient.hu[:, :, low:high] > METAL_HU)) * patient.voxel_ml
