"""How far organs reach: to a level of the scan's height, and which of two reaches lower.

A level is a share of the scan's extent (`Patient.box`), from the bottom up.  An organ's level is about the
median of where its contours end in the training patients of OpenKBP, so yes and no are about equally likely beforehand.
What ends within `NEAR_SLICES` of the level is not asked for.
"""

from __future__ import annotations

import random

import numpy as np

from datasets.prepare.case import Question
from datasets.prepare.head_neck.patient import Patient
from datasets.prepare.head_neck.wording import yes_no

LEVEL, LOWER = "reaches_level", "reaches_lower"
# In percent.  The spinal cord's lower end is left out: its contours mostly end with the scan.
OF_LOWER_END = {
    "brainstem": 73,
    "right parotid gland": 59,
    "left parotid gland": 60,
    "esophagus": 8,
    "larynx": 36,
    "mandible": 53,
}
OF_UPPER_END = {
    "brainstem": 93,
    "spinal cord": 73,
    "right parotid gland": 80,
    "left parotid gland": 80,
    "esophagus": 34,
    "larynx": 46,
    "mandible": 79,
}
PAIRS = (("left parotid gland", "right parotid gland"), ("esophagus", "spinal cord"))
NEAR_SLICES = 1.5


def levels(patient: Patient) -> list[Question]:
    """For each contoured organ whether it reaches below one level, and above another."""
    (_, _, start), (_, _, height) = patient.box
    questions = []
    for organ in patient.organs:
        low, high = (end - start for end in ends(patient, organ))
        for way, end, known in (("below", low, OF_LOWER_END), ("above", high, OF_UPPER_END)):
            level = known.get(organ)
            if level is None or abs(end - level / 100 * height) < NEAR_SLICES:
                continue
            beyond = (end < level / 100 * height) == (way == "below")
            questions.append(yes_no(LEVEL, f"Does the {organ} reach {way} {level} % of the scan's height?", beyond))
    return questions


def lower(patient: Patient, draw: random.Random) -> list[Question]:
    """For each pair, in random order, whether the one reaches lower than the other."""
    questions = []
    for pair in PAIRS:
        one, other = draw.sample(pair, 2)
        if one in patient.organs and other in patient.organs:
            above = ends(patient, other)[0] - ends(patient, one)[0]
            if abs(above) >= NEAR_SLICES:
                questions.append(yes_no(LOWER, f"Does the {one} reach lower than the {other}?", above > 0))
    return questions


def ends(patient: Patient, organ: str) -> tuple[int, int]:
    """The edges of an organ's lowest and highest slice, in voxels from the bottom of the array."""
    slices = np.flatnonzero(patient.organs[organ].any(axis=(0, 1)))
    return int(slices[0]), int(slices[-1]) + 1
