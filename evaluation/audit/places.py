"""Where structures lie in a patient: what must be right of, above or behind what, whatever the patient.

In RAS coordinates x grows to the patient's right, y to the front and z to the head; in the view all are in mm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from datasets.label_descriptions import canonical
from evaluation.audit.view import View

SIDE_WORD = re.compile(r"\b(left|right)\b")
MARGIN = 10.0  # mm that two centres may be the wrong way round
WIDE = 200.0  # mm: a narrower volume may be cut out on one side, so that its middle is not the patient's
WRONG_SIDE = 0.05  # of the volume's width, by which a structure without a partner must be beyond the middle
IN_FRONT = 0.15  # of the volume's depth: the spine of a neck lies near the middle
# From head to feet; a level's structures lie above those of the levels after it.
LEVELS = {
    "head": re.compile(r"\b(brain|brainstem|brain stem|skull|mandible|parotid)\b"),
    "chest": re.compile(r"^(left |right )?(lungs?|heart|lung (upper|middle|lower) lobe)$"),
    "upper abdomen": re.compile(r"^(left |right )?(liver|spleen|pancreas|kidneys?|adrenal gland|gallbladder)$"),
    "pelvis": re.compile(r"\b(urinary bladder|bladder|prostate|rectum|sacrum|hip|femur)\b"),
}
SPINE = re.compile(r"\b(spine|spinal cord|vertebrae?|sacrum)\b")
USUAL_SIDES = {"liver": "right", "gallbladder": "right", "spleen": "left", "stomach": "left"}


def axis_oddities(view: View) -> Iterator[str]:
    """Structures that are the wrong way round along one of the axes."""
    centres = {canonical(label): view.centre(mask) for label, mask in view.masks.items() if mask.any()}
    yield from _pairs(centres)
    yield from _sides(view, centres)
    yield from _levels(centres)
    yield from _front_and_back(view, centres)


def _pairs(centres: Mapping[str, np.ndarray]) -> Iterator[str]:
    for label, centre in centres.items():
        if (match := SIDE_WORD.search(label)) is None or match.group() != "left":
            continue
        partner = label[: match.start()] + "right" + label[match.end() :]
        if partner in centres and centre[0] > centres[partner][0]:
            yield f"{label} lies to the right of {partner}"
    if {"liver", "spleen"} <= centres.keys() and centres["liver"][0] + MARGIN < centres["spleen"][0]:
        yield "liver lies to the left of spleen"


def _sides(view: View, centres: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Against the middle of the body, where the volume is wide enough to show both sides."""
    if view.extent[0] < WIDE:
        return
    for label, centre in centres.items():
        words = set(SIDE_WORD.findall(label))
        side = words.pop() if len(words) == 1 else USUAL_SIDES.get(label)
        beyond = (centre[0] - view.middle[0]) * (1 if side == "left" else -1)
        if side and beyond > WRONG_SIDE * view.extent[0]:
            yield f"{label} lies on the patient's {'right' if side == 'left' else 'left'}"


def _levels(centres: Mapping[str, np.ndarray]) -> Iterator[str]:
    heights = {
        level: {label: centre[2] for label, centre in centres.items() if pattern.search(label)}
        for level, pattern in LEVELS.items()
    }
    there = [labels for labels in heights.values() if labels]
    for above, below in pairwise(there):
        lowest, highest = min(above, key=lambda label: above[label]), max(below, key=lambda label: below[label])
        if np.mean([*above.values()]) + MARGIN < np.mean([*below.values()]):
            yield f"{lowest} lies below {highest}: is the head at the bottom?"


def _front_and_back(view: View, centres: Mapping[str, np.ndarray]) -> Iterator[str]:
    depth = view.extent[1]
    for label, centre in centres.items():
        if SPINE.search(label) and centre[1] > view.middle[1] + IN_FRONT * depth:
            yield f"{label} lies in front of the body's middle"
    if {"trachea", "esophagus"} <= centres.keys() and centres["trachea"][1] + MARGIN < centres["esophagus"][1]:
        yield "trachea lies behind esophagus"
