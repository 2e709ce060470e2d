"""What can be asked about the details of a phantom's findings, and what is then the right answer."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.phantom.details import GRADES
from datasets.phantom.lesions import LATERAL, Finding
from datasets.phantom.sites import ZONES
from datasets.phantom.text import NUMBERS

WHICH_SIDE = (
    "On which side is the {0}?",
    "Which side is affected by {0}?",
    "Where is the {0}: left, right or on both sides?",
    "Which lung or hemithorax has {0}?",
)
SIDES = {"left": "Left side", "right": "Right side", "both": "Both sides"}
SIDED = tuple(name for name in LATERAL if name != "Consolidation")  # of which the zone is asked for


@dataclass(frozen=True)
class Topic:
    """A question with a closed set of answers, about equally likely when the finding is present.

    absent: the answer to the open question where the finding is absent, "" if it is then not asked.
    """

    finding: str
    questions: tuple[str, ...]
    options: tuple[str, ...]
    answer: str
    absent: str = ""


def topics(findings: dict[str, Finding]) -> list[Topic]:
    """Everything that can be asked about the findings' details; ``answer`` is "" where the finding is absent."""

    def detail(name: str, attribute: str) -> str:
        return str(getattr(findings[name], attribute)) if name in findings else ""

    def grades(name: str) -> tuple[str, ...]:
        return tuple(grade.capitalize() for grade in GRADES[name])

    result = [
        Topic(name, tuple(q.format(inline(name)) for q in WHICH_SIDE), tuple(SIDES.values()),
              SIDES.get(detail(name, "side"), ""))
        for name in SIDED
    ]  # fmt: skip
    nodules = findings["Lung nodule"].count if "Lung nodule" in findings else 0
    nodes = findings["Lymphadenopathy"].count if "Lymphadenopathy" in findings else 0
    vessels = (
        findings["Coronary artery wall calcification"].count if "Coronary artery wall calcification" in findings else 0
    )
    place = detail("Lung nodule", "place")
    numbers = tuple(n.capitalize() for n in NUMBERS.values())
    zones = tuple(f"{zone.capitalize()} zone" for zone in ZONES)
    result += [
        Topic("Lung nodule", ("How many lung nodules are there?", "What is the number of lung nodules?"), numbers,
              NUMBERS.get(nodules, "").capitalize(), "None"),
        Topic("Lung nodule", ("Where is the largest lung nodule?", "Which zone holds the largest lung nodule?"),
              zones, f"{place.capitalize()} zone" if place else ""),
        Topic("Lung nodule", ("How large is the largest lung nodule?", "What is the size of the largest lung nodule?"),
              grades("Lung nodule"), detail("Lung nodule", "grade").capitalize()),
        Topic("Lymphadenopathy", ("How many enlarged lymph nodes are there?", "What is the number of enlarged nodes?"),
              numbers, NUMBERS.get(nodes, "").capitalize(), "None"),
        Topic("Pleural effusion", ("How large is the pleural effusion?", "What is the size of the pleural effusion?"),
              grades("Pleural effusion"), detail("Pleural effusion", "grade").capitalize()),
        Topic("Consolidation", ("Where is the consolidation?", "Which zone does the consolidation occupy?"),
              zones,
              f"{detail('Consolidation', 'side').capitalize()} {detail('Consolidation', 'place')} zone"
              if "Consolidation" in findings else ""),
        Topic("Medical material", ("Which medical device is seen?", "What kind of medical material is in the chest?"),
              ("Pacemaker", "Port catheter", "Sternal wires", "Spinal rods"),
              detail("Medical material", "kind").capitalize(), "None"),
        Topic("Coronary artery wall calcification",
              ("How many coronary arteries are calcified?", "What is the number of calcified coronary vessels?"),
              numbers[:3], NUMBERS.get(vessels, "").capitalize(), "None"),
    ]  # fmt: skip
    return result


def open_only(findings: dict[str, Finding]) -> list[tuple[tuple[str, ...], str]]:
    """Open questions that every case can be asked or that have but two answers."""
    heart = "Enlarged" if "Cardiomegaly" in findings else "Normal"
    result: list[tuple[tuple[str, ...], str]] = [(("What is the size of the heart?", "How large is the heart?"), heart)]
    for name, questions in {
        "Arterial wall calcification": (
            "How severe is the calcification of the aorta?",
            "What is the grade of aortic calcification?",
        ),
        "Emphysema": ("How severe is the emphysema?", "What is the grade of the emphysema?"),
        "Pericardial effusion": (
            "How large is the pericardial effusion?",
            "What is the size of the pericardial effusion?",
        ),
    }.items():
        if name in findings:
            result.append((questions, findings[name].grade.capitalize()))
    return result


def inline(name: str) -> str:
    """A disease's name inside a sentence."""
    return name.lower()
