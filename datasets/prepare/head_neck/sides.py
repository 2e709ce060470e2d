"""On which side the main target lies: its centroid against the midline of the spinal cord and the brainstem."""

from __future__ import annotations

import random

import numpy as np

from datasets.prepare.case import Question
from datasets.prepare.head_neck.patient import RIGHT, Patient
from datasets.prepare.head_neck.wording import asked_as, one_of

KIND = "target_side"
MAIN_TARGET = "PTV70"
MIDLINE_ORGANS = ("spinal cord", "brainstem")
WORDINGS = (
    "On which side does the main target lie?",
    "Where is the main target?",
    "Which side is to be treated?",
)
OPTIONS = ("Left", "Midline", "Right")
MIDLINE_MM, SIDE_MM = 6.0, 10.0  # what lies between is left out


def target_side(patient: Patient, draw: random.Random, training: bool = False) -> list[Question]:
    """One question in one or in all wordings; none without target or midline, or where the side is not clear."""
    side = side_of_target(patient)
    if side is None:
        return []
    return [one_of(KIND, text, OPTIONS, side, draw) for text in asked_as(WORDINGS, draw, training)]


def side_of_target(patient: Patient) -> str | None:
    """The patient's own left or right, or the midline; None where it is not clear."""
    midline = [patient.centre(organ)[RIGHT] for organ in MIDLINE_ORGANS if organ in patient.organs]
    if MAIN_TARGET not in patient.targets or not midline:
        return None
    to_the_right = (patient.targets[MAIN_TARGET][RIGHT] - float(np.mean(midline))) * patient.spacing[RIGHT]
    if abs(to_the_right) <= MIDLINE_MM:
        return "Midline"
    if abs(to_the_right) < SIDE_MM:
        return None
    return "Right" if to_the_right > 0 else "Left"
