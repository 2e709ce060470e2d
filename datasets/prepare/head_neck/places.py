"""Which organ lies at a place that is given as shares of the scan's extent (`Patient.box`), in words.

The places are fixed.  At each, one of two organs lies in many of the training patients of OpenKBP, the one about as
often as the other, so that the place alone does not tell which.  It is asked for where a contour holds it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from datasets.prepare.case import Question
from datasets.prepare.head_neck.patient import Patient
from datasets.prepare.head_neck.wording import one_of

KIND = "organ_at_place"
OTHERS = 1  # further options, which are wrong
Place = tuple[int, int, int]  # percent from the left, from the back, from the bottom
PLACES: dict[tuple[str, str], tuple[Place, ...]] = {
    ("brainstem", "spinal cord"): (
        (49, 47, 71), (49, 43, 73), (51, 47, 67), (51, 43, 69), (53, 43, 73), (49, 51, 69),
    ),
    ("spinal cord", "esophagus"): ((49, 43, 21), (49, 45, 29), (49, 49, 33), (49, 45, 25), (49, 39, 15)),
    ("right parotid gland", "mandible"): (
        (61, 63, 67), (61, 63, 63), (61, 63, 59), (59, 61, 71), (77, 61, 67), (77, 61, 71),
    ),
    ("left parotid gland", "mandible"): (
        (39, 63, 69), (39, 63, 73), (19, 59, 77), (39, 65, 65), (39, 63, 61), (19, 61, 73),
    ),
    ("esophagus", "larynx"): ((49, 55, 31),),
}  # fmt: skip


def places(patient: Patient, draw: random.Random) -> list[Question]:
    """A question for each place where one of its two organs lies, as far as these were contoured."""
    names = sorted({organ for pair in PLACES for organ in pair})
    questions = []
    for pair, place, right in _held(patient):
        left, back, bottom = place
        text = f"Which organ lies at {left} % from the left, {back} % from the back and {bottom} % from the bottom?"
        others = draw.sample([organ for organ in names if organ not in pair], OTHERS)
        questions.append(one_of(KIND, text, (*pair, *others), right, draw))
    return questions


def voxel_at(patient: Patient, place: Place) -> tuple[int, int, int]:
    """The voxel that holds a place."""
    start, size = patient.box
    x, y, z = (first + n * share // 100 for first, n, share in zip(start, size, place, strict=True))
    return x, y, z


def _held(patient: Patient) -> Iterator[tuple[tuple[str, str], Place, str]]:
    for pair, known in PLACES.items():
        for place in known:
            voxel = voxel_at(patient, place)
            for organ in pair:
                if organ in patient.organs and patient.organs[organ][voxel]:
                    yield pair, place, organ
