"""Labels for the details of a finding: its side, its number, its size or grade, where it is, and its kind.

Pretraining can learn them as classes beside the 18 diseases.  Questions and reports ask for these details, and a mask
shows them without naming them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from datasets.phantom.lesions import LATERAL, Finding, side_label, sides_of
from datasets.phantom.nodules import NODULE_SIZES
from datasets.phantom.sites import SITES, ZONES
from datasets.phantom.text import DEVICES, NUMBERS

GRADES = {
    "Arterial wall calcification": ("mild", "severe"),
    "Emphysema": ("mild", "severe"),
    "Lung nodule": tuple(NODULE_SIZES),
    "Pericardial effusion": ("small", "large"),
    "Pleural effusion": ("small", "moderate", "large"),
}
COUNTS = {  # how many there can be, and what one and several are called
    "Coronary artery wall calcification": (3, "calcified coronary artery", "calcified coronary arteries"),
    "Lung nodule": (4, "lung nodule", "lung nodules"),
    "Lymphadenopathy": (4, "enlarged lymph node", "enlarged lymph nodes"),
}

Holds = Callable[[Finding], bool]  # whether a present finding has the detail
Details = dict[str, tuple[str, Holds]]  # by label: the finding's name, and the test


def _on_side(side: str) -> Holds:
    return lambda finding: side in sides_of(finding.side)


def _of_grade(grade: str) -> Holds:
    return lambda finding: finding.grade == grade


def _of_number(number: int) -> Holds:
    return lambda finding: finding.count == number


def _at_site(site: str) -> Holds:
    return lambda finding: site in finding.sites


def _of_kind(kind: str) -> Holds:
    return lambda finding: finding.kind == kind


def _largest_in(zone: str) -> Holds:
    return lambda finding: finding.place == zone


def _side_and_place(zone: str) -> Holds:
    return lambda finding: f"{finding.side} {finding.place}" == zone


def _details() -> Details:
    found: Details = {}
    for name in LATERAL:
        for side in ("left", "right"):
            found[side_label(side, name)] = name, _on_side(side)
    for name, grades in GRADES.items():
        for grade in grades:
            found[f"{grade} {name.lower()}"] = name, _of_grade(grade)
    for name, (most, one, several) in COUNTS.items():
        for number in range(1, most + 1):
            found[f"{NUMBERS[number]} {one if number == 1 else several}"] = name, _of_number(number)
    for name, sites in SITES.items():
        for site, label in sites.items():
            found[label] = name, _at_site(site)
    for device in DEVICES:
        found[device] = "Medical material", _of_kind(device)
    for zone in ZONES:
        found[f"{zone} zone nodule"] = "Lung nodule", _largest_in(zone)
        found[f"{zone} zone consolidation"] = "Consolidation", _side_and_place(zone)
    return found


DETAILS: Details = _details()
"""For each label, the finding that it is a detail of, and a test of whether a present finding has it."""


def detail_targets(findings: Mapping[str, Finding]) -> dict[str, int | None]:
    """For each label of ``DETAILS`` 1 or 0; None (unknown) where the finding is absent, so that it has no details."""
    return {label: int(holds(findings[name])) if name in findings else None for label, (name, holds) in DETAILS.items()}
