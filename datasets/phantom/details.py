"""What else than presence pretraining learns of a finding: side, number, size or grade, sites, kind, as labels.

Questions and reports are about them, and a volume's mask does not say them in so many words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from datasets.phantom.lesions import LATERAL, Finding, side_label, sides_of
from datasets.phantom.lung_findings import NODULE_SIZES
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

Details = dict[str, tuple[str, Callable[[Finding], bool]]]


def _details() -> Details:
    found: Details = {}
    for name in LATERAL:
        for side in ("left", "right"):
            found[side_label(side, name)] = name, lambda finding, side=side: side in sides_of(finding.side)
    for name, grades in GRADES.items():
        for grade in grades:
            found[f"{grade} {name.lower()}"] = name, lambda finding, grade=grade: finding.grade == grade
    for name, (most, one, several) in COUNTS.items():
        for number in range(1, most + 1):
            label = f"{NUMBERS[number]} {one if number == 1 else several}"
            found[label] = name, lambda finding, number=number: finding.count == number
    for name, sites in SITES.items():
        for site, label in sites.items():
            found[label] = name, lambda finding, site=site: site in finding.sites
    for device in DEVICES:
        found[device] = "Medical material", lambda finding, device=device: finding.kind == device
    for zone in ZONES:
        found[f"{zone} zone nodule"] = "Lung nodule", lambda finding, zone=zone: finding.place == zone
        found[f"{zone} zone consolidation"] = (
            "Consolidation",
            lambda finding, zone=zone: f"{finding.side} {finding.place}" == zone,
        )
    return found


DETAILS: Details = _details()
"""By label the finding that it is a detail of, and whether a present one has it."""


def detail_targets(findings: Mapping[str, Finding]) -> dict[str, int | None]:
    """For each of ``DETAILS`` 1 or 0, or None where the finding is absent and there is nothing to be told apart."""
    return {label: int(holds(findings[name])) if name in findings else None for label, (name, holds) in DETAILS.items()}
