"""How large an organ is, as one of three ranges in ml.

The ranges of an organ part the training patients of OpenKBP into thirds, so none is likelier beforehand.  A volume
near a limit is not asked for, nor is the range told by where the others lie: they are the same for every patient.
"""

from __future__ import annotations

import random

from datasets.prepare.case import Question
from datasets.prepare.head_neck.patient import Patient
from datasets.prepare.head_neck.wording import one_of

KIND = "volume"
THIRDS_ML = {
    "brainstem": (23, 28),
    "spinal cord": (22, 28),
    "right parotid gland": (22, 30),
    "left parotid gland": (22, 30),
    "esophagus": (10, 13),
    "larynx": (18, 28),
    "mandible": (56, 70),
}
NEAR = 0.05  # of a limit


def volumes(patient: Patient, draw: random.Random) -> list[Question]:
    """A question for each contoured organ whose volume is clearly in one range."""
    questions = []
    for organ, mask in patient.organs.items():
        volume = float(mask.sum()) * patient.voxel_ml
        if organ in THIRDS_ML and all(abs(volume / limit - 1) >= NEAR for limit in THIRDS_ML[organ]):
            options = ranges(organ)
            right = options[sum(volume > limit for limit in THIRDS_ML[organ])]
            questions.append(one_of(KIND, f"How large is the {organ}?", options, right, draw))
    return questions


def ranges(organ: str) -> tuple[str, str, str]:
    """The three options, from small to large."""
    low, high = THIRDS_ML[organ]
    return f"below {low} ml", f"{low} to {high} ml", f"above {high} ml"
