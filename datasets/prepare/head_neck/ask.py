"""All questions about one patient."""

from __future__ import annotations

import hashlib
import random

from datasets.prepare.case import Case, Question
from datasets.prepare.head_neck import structures
from datasets.prepare.head_neck.dental import dental_metal
from datasets.prepare.head_neck.levels import levels, lower
from datasets.prepare.head_neck.lungs import find_lungs, lung_apices
from datasets.prepare.head_neck.patient import read_patient
from datasets.prepare.head_neck.places import places
from datasets.prepare.head_neck.sides import target_side
from datasets.prepare.head_neck.volumes import volumes


def ask(case: Case, seed: int = 0) -> list[Question]:
    """The questions about a case; what is drawn comes from the seed, the case and the kind of question alone.

    Raises InputError where a file cannot be read.
    """
    patient = read_patient(case)
    lungs = find_lungs(patient)
    training = case.split == "train"

    def draw(kind: str) -> random.Random:
        digest = hashlib.sha256(f"{seed}/{kind}/{case.id}".encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    return [
        *structures.segmentation(patient, draw("segmentation")),
        *structures.outside(lungs, draw("outside_the_scan")),
        *target_side(patient, draw("target_side"), training),
        *levels(patient),
        *lower(patient, draw("reaches_lower")),
        *volumes(patient, draw("volume")),
        *places(patient, draw("organ_at_place")),
        *lung_apices(lungs, draw("lung_apices"), training),
        *dental_metal(patient, draw("dental_metal"), training),
    ]
