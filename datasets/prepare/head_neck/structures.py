"""Where structures are: by `<SEG>` those that were contoured, in words those that lie outside the scan."""

from __future__ import annotations

import random

from datasets.phantom.questions import SEGMENT, SEGMENT_ONE, SEGMENT_TWO
from datasets.prepare.case import Question
from datasets.prepare.head_neck.lungs import Lungs
from datasets.prepare.head_neck.patient import Patient

PAIRS = 2
OUTSIDE = 4
ABDOMEN = ("liver", "spleen", "stomach", "pancreas", "left kidney", "right kidney", "gallbladder", "urinary bladder")
LUNG_BASES = ("left lung base", "right lung base")
HEART = ("heart",)
# Of lung, from the apex down: the heart begins further below, the bases and the dome of the liver much further.
HEART_FREE_MM, BASES_FREE_MM, ABDOMEN_FREE_MM = 40.0, 100.0, 150.0


def segmentation(patient: Patient, draw: random.Random) -> list[Question]:
    """Every contoured organ by itself, then two pairs of different organs."""
    questions = [_asked((organ,), draw) for organ in patient.organs]
    names = list(patient.organs)
    pairs = [(a, b) for a in names for b in names if a != b]
    return questions + [_asked(pair, draw) for pair in draw.sample(pairs, min(PAIRS, len(pairs)))]


def outside(lungs: Lungs, draw: random.Random) -> list[Question]:
    """Structures that the scan cannot hold, asked for as if they were there and answered without a mask."""
    names = structures_outside(lungs)
    asked = draw.sample(names, min(OUTSIDE, len(names)))
    return [Question(_wording(SEGMENT_ONE, draw).format(name), outside_answer(name), task="segmentation",
                     kind="outside_the_scan") for name in asked]  # fmt: skip


def outside_answer(name: str) -> str:
    """What is said of a structure outside the scan."""
    return f"The {name} is not in the field of view."


def structures_outside(lungs: Lungs) -> list[str]:
    """What lies below the scan, told by how much lung it holds; what might be in view is left out.

    An organ that was not contoured says nothing about where the scan ends.  The lungs themselves are not asked for:
    they have no contours, so that their name would only ever be learned with a denial, and many scans reach them.
    """
    if lungs.seen is None:
        return list(ABDOMEN)
    names: list[str] = []
    for limit, structures in ((HEART_FREE_MM, HEART), (BASES_FREE_MM, LUNG_BASES), (ABDOMEN_FREE_MM, ABDOMEN)):
        names += structures if not lungs.seen or lungs.depth_mm <= limit else ()
    return names


def _asked(organs: tuple[str, ...], draw: random.Random) -> Question:
    wording = _wording(SEGMENT_ONE if len(organs) == 1 else SEGMENT_TWO, draw)
    answer = "It is <SEG>." if len(organs) == 1 else f"The {organs[0]} is <SEG> and the {organs[1]} is <SEG>."
    return Question(wording.format(*organs), answer, task="segmentation", labels=organs, kind="segmentation")


def _wording(wordings: tuple[str, ...], draw: random.Random) -> str:
    return draw.choice(wordings) + (SEGMENT if draw.random() < 0.5 else "")
