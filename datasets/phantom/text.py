"""Radiology reports of the phantoms, from the truth about them.

A report has two parts, "Findings:" and "Impression:". Every present finding is named with its side, number, size or
place, and every absent one is denied, in a fixed order, as in a structured report. A sentence speaks of one disease and
affirms or denies it plainly, so that evaluation.metrics.report_labels reads the labels back without a fault.
"""

from __future__ import annotations

import numpy as np

from datasets.phantom.lesions import Finding

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

# Fields: see _fields. One sentence is drawn from each list.
PRESENT: dict[str, tuple[str, ...]] = {
    "Medical material": (
        "Medical material: {device}.",
        "Medical material is present: {device}.",
        "Dense metal artefact of medical material, namely {device}.",
    ),
    "Arterial wall calcification": (
        "{Grade} calcification of the aortic wall.",
        "The aorta shows {grade} arterial wall calcification.",
        "{Grade} calcified plaques line the aortic wall.",
    ),
    "Cardiomegaly": (
        "The heart is enlarged with a cardiothoracic ratio of {kind}.",
        "Cardiomegaly, cardiothoracic ratio {kind}.",
        "Enlarged heart measuring {size} mm across.",
    ),
    "Pericardial effusion": (
        "{Grade} pericardial effusion, {size} mm thick.",
        "Fluid fills the pericardial sac, a {grade} pericardial effusion.",
        "There is a {grade} effusion in the pericardial sac.",
    ),
    "Coronary artery wall calcification": (
        "Coronary artery calcification in {number} of three vessels: {place}.",
        "Calcified coronary arteries ({place}).",
        "There is coronary artery wall calcification of {number} of three vessels.",
    ),
    "Hiatal hernia": (
        "A hiatal hernia with air and fluid lies behind the heart, {size} mm.",
        "Hiatal hernia of {size} mm.",
        "Part of the stomach lies behind the heart, a hiatal hernia.",
    ),
    "Lymphadenopathy": (
        "Lymphadenopathy with {number} enlarged {nodes}: {place}.",
        "{Number} enlarged lymph {nodes} up to {size} mm ({place}).",
        "Enlarged lymph {nodes}, {number} in total, at the following sites: {place}.",
    ),
    "Emphysema": (
        "{Grade} emphysema {lungs}.",
        "Emphysema of {grade} degree with air pockets {lungs}.",
        "Emphysematous air pockets {lungs}, {grade}.",
    ),
    "Atelectasis": (
        "Band-shaped atelectasis at the base {lungs}.",
        "Linear atelectasis {lungs}, lower zone.",
        "There are bands of atelectasis {lungs}.",
    ),
    "Lung nodule": (
        "{Number} solid lung {nodules} {lungs}, the largest {size} mm in the {place} zone.",
        "Lung {nodules} {lungs}, {number} in number; size up to {size} mm.",
        "There {are} {number} pulmonary {nodules} {lungs}, the largest measuring {size} mm.",
    ),
    "Lung opacity": (
        "Ground-glass opacity {lungs}.",
        "Hazy lung opacity {lungs}.",
        "There is patchy ground-glass opacity {lungs}.",
    ),
    "Pulmonary fibrotic sequela": (
        "Fibrotic sequela at the apex {lungs}.",
        "Apical scarring with fibrotic strands {lungs}.",
        "Pulmonary fibrotic sequela {lungs}, apical.",
    ),
    "Pleural effusion": (
        "{Grade} {sided} pleural effusion.",
        "Pleural effusion {sides}, {grade}.",
        "There is a {grade} {sided} effusion in the pleural space.",
    ),
    "Mosaic attenuation pattern": (
        "Mosaic attenuation of both lungs.",
        "Both lungs show a mosaic attenuation pattern.",
        "A patchwork of mosaic attenuation is seen in both lungs.",
    ),
    "Peribronchial thickening": (
        "Peribronchial thickening {lungs}.",
        "Thickened bronchial walls near the hilum {lungs} (peribronchial thickening).",
        "There is central peribronchial thickening {lungs}.",
    ),
    "Consolidation": (
        "Consolidation with air bronchograms in the {side} lung, {place} zone.",
        "A dense consolidation in the {place} zone of the {side} lung.",
        "The {side} lung has an area of consolidation in its {place} zone.",
    ),
    "Bronchiectasis": (
        "Bronchiectasis {lungs}, lower zone.",
        "Dilated bronchi {lungs}, in keeping with bronchiectasis.",
        "There is bronchiectasis at the base {lungs}.",
    ),
    "Interlobular septal thickening": (
        "Interlobular septal thickening in both lungs.",
        "Thickened interlobular septa in both lungs.",
        "A net of interlobular septal thickening is seen in both lungs.",
    ),
}

ABSENT: dict[str, tuple[str, ...]] = {
    "Medical material": ("No medical material.", "There is no medical material."),
    "Arterial wall calcification": ("No calcification of the aortic wall.", "The aorta has no calcification."),
    "Cardiomegaly": ("Heart size is normal.", "The heart is not enlarged."),
    "Pericardial effusion": ("No pericardial effusion.", "There is no effusion in the pericardial sac."),
    "Coronary artery wall calcification": (
        "No coronary artery calcification.",
        "The coronary arteries are not calcified.",
    ),
    "Hiatal hernia": ("No hiatal hernia.", "There is no hiatal hernia."),
    "Lymphadenopathy": ("No enlarged lymph nodes.", "There is no lymphadenopathy."),
    "Emphysema": ("No emphysema.", "There is no emphysema."),
    "Atelectasis": ("No atelectasis.", "There is no atelectasis."),
    "Lung nodule": ("No lung nodule.", "No pulmonary nodules are seen."),
    "Lung opacity": ("No ground-glass opacity.", "There is no lung opacity."),
    "Pulmonary fibrotic sequela": ("No fibrotic sequela.", "The apices are without fibrotic strands."),
    "Pleural effusion": ("No pleural effusion.", "There is no effusion in the pleural space."),
    "Mosaic attenuation pattern": ("No mosaic attenuation.", "There is no mosaic attenuation pattern."),
    "Peribronchial thickening": ("No peribronchial thickening.", "There is no peribronchial thickening."),
    "Consolidation": ("No consolidation.", "There is no consolidation."),
    "Bronchiectasis": ("No bronchiectasis.", "There is no bronchiectasis."),
    "Interlobular septal thickening": (
        "No interlobular septal thickening.",
        "The interlobular septa are not thickened.",
    ),
}

IMPRESSION: dict[str, tuple[str, ...]] = {
    "Medical material": ("Medical material ({kind}).",),
    "Arterial wall calcification": ("{Grade} aortic wall calcification.",),
    "Cardiomegaly": ("Cardiomegaly.", "Enlarged heart."),
    "Pericardial effusion": ("{Grade} pericardial effusion.",),
    "Coronary artery wall calcification": ("Coronary artery calcification.",),
    "Hiatal hernia": ("Hiatal hernia.",),
    "Lymphadenopathy": ("Lymphadenopathy ({number}).", "Enlarged lymph {nodes} ({number})."),
    "Emphysema": ("Emphysema {lungs}.",),
    "Atelectasis": ("Atelectasis {lungs}.",),
    "Lung nodule": ("{Number} lung {nodules} {lungs}.",),
    "Lung opacity": ("Ground-glass opacity {lungs}.",),
    "Pulmonary fibrotic sequela": ("Fibrotic sequela {lungs}.",),
    "Pleural effusion": ("{Sided} pleural effusion.",),
    "Mosaic attenuation pattern": ("Mosaic attenuation.",),
    "Peribronchial thickening": ("Peribronchial thickening {lungs}.",),
    "Consolidation": ("Consolidation of the {side} lung.",),
    "Bronchiectasis": ("Bronchiectasis {lungs}.",),
    "Interlobular septal thickening": ("Interlobular septal thickening.",),
}

ORDER = (
    "Consolidation", "Lung opacity", "Lung nodule", "Atelectasis", "Emphysema", "Bronchiectasis",
    "Peribronchial thickening", "Interlobular septal thickening", "Mosaic attenuation pattern",
    "Pulmonary fibrotic sequela", "Pleural effusion", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Arterial wall calcification", "Lymphadenopathy", "Hiatal hernia",
    "Medical material",
)  # fmt: skip
NORMAL_ORGANS = (
    "The liver, spleen and both kidneys are unremarkable.",
    "Upper abdominal organs appear normal.",
    "Liver, spleen and kidneys are of normal appearance.",
)
DEVICES = {
    "pacemaker": "a pacemaker on the {side} with its lead in the heart",
    "port catheter": "a port catheter on the {side}",
    "sternal wires": "sternal wires",
    "spinal rods": "spinal rods with screws",
}


def _fields(finding: Finding) -> dict[str, str]:
    """The words that a finding's sentences may use."""
    both = finding.side == "both"
    number = NUMBERS.get(finding.count, str(finding.count))
    fields = {
        "side": finding.side,
        "sided": "bilateral" if both else f"{finding.side}-sided",
        "sides": "on both sides" if both else f"on the {finding.side}",
        "lungs": "in both lungs" if both else f"in the {finding.side} lung",
        "number": number,
        "nodes": "node" if finding.count == 1 else "nodes",
        "nodules": "nodule" if finding.count == 1 else "nodules",
        "are": "is" if finding.count == 1 else "are",
        "size": f"{finding.size_mm:.0f}",
        "place": finding.place,
        "grade": finding.grade,
        "kind": finding.kind,
    }
    if finding.name == "Medical material":
        fields["device"] = DEVICES[finding.kind].format(**fields)
    for name in ("number", "grade", "sided"):
        fields[name.capitalize()] = fields[name][:1].upper() + fields[name][1:]
    return fields


def _sentence(choices: tuple[str, ...], rng: np.random.Generator, finding: Finding | None = None) -> str:
    text = choices[int(rng.integers(len(choices)))]
    return text.format(**_fields(finding)) if finding else text


def write_report(findings: dict[str, Finding], rng: np.random.Generator, deny: float = 1.0) -> str:
    """A two-part report. Each absent disease is denied with probability ``deny``."""
    lines = []
    for name in ORDER:
        if name in findings:
            lines.append(_sentence(PRESENT[name], rng, findings[name]))
        elif rng.random() < deny:
            lines.append(_sentence(ABSENT[name], rng))
    lines.append(_sentence(NORMAL_ORGANS, rng))
    short = [_sentence(IMPRESSION[name], rng, findings[name]) for name in ORDER if name in findings]
    return f"Findings: {' '.join(lines)} Impression: {' '.join(short) or 'Normal chest CT.'}"
