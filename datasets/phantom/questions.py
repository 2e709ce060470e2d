"""Questions about a phantom: open, multiple choice, yes/no, segmentation, diagnosis, report.

Balance by construction: yes and no questions come in pairs of the same polarity; a multiple-choice question offers
answers that are about equally likely beforehand, in random order; the wording never depends on the answer.  An open
question is also asked where there is nothing to find, so that "None." is often right (see
`evaluation.learning.blind_answers`).
Answers are short and follow from the question and the truth alone.  A choice is answered by its text, which is what is
seen; a letter would have to be looked up among the options, which takes a small model longer to learn than what to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.phantom.lesions import DISEASES, Finding, lesion_values
from datasets.phantom.topics import inline, open_only, topics

T = TypeVar("T")

YES_NO, CHOICE, REPORT, SEGMENT, DIAGNOSE = (
    " <binary_answer>", " <multiple_choice>", " <report_generation>", " <segmentation>", " <diagnosis>",
)  # fmt: skip

REPORT_QUESTIONS = (
    "Please write the radiology report of this CT." + REPORT,
    "Generate a report with findings and impression for this chest CT." + REPORT,
    "Describe this CT in a radiology report.",
    "What does this scan show? Give findings and impression.",
)
DIAGNOSIS_QUESTIONS = (
    "Which diseases does this chest CT show? Please give a confidence for each." + DIAGNOSE,
    "Assess this CT for the 18 abnormalities." + DIAGNOSE,
    "Please diagnose this CT scan.",
    "Give the confidence of every disease in this scan.",
)
SEGMENT_ONE = (
    "Where is the {0}? Please output segmentation mask.",
    "Please segment the {0} in this CT.",
    "Can you outline the {0}?",
    "Show me the {0} in this scan with a mask.",
)
SEGMENT_TWO = (
    "Where are the {0} and the {1}? Please output segmentation masks.",
    "Please segment the {0} and the {1}.",
    "Can you outline the {0} and the {1}?",
    "Show me masks of the {0} and the {1}.",
)
SEGMENT_LESION = (
    "Where is the {0}? Please output segmentation mask.",
    "Please segment the {0}.",
    "Outline the {0} in this CT.",
    "Show me where the {0} is.",
)
IS_THERE = (
    "Is there {0}?" + YES_NO,
    "Does this CT show {0}?" + YES_NO,
    "Can {0} be seen in this scan?",
    "Does the patient have {0}?",
)
INVERSE = {
    "Cardiomegaly": ("Is the heart of normal size?" + YES_NO, "Is the size of the heart within normal limits?"),
    "Pleural effusion": ("Are the pleural spaces free of fluid?" + YES_NO, "Are both pleural cavities dry?"),
    "Lung nodule": ("Are the lungs free of nodules?" + YES_NO, "Is the chest clear of lung nodules?"),
    "Lymphadenopathy": ("Are all lymph nodes of normal size?" + YES_NO, "Is the chest without enlarged nodes?"),
    "Arterial wall calcification": (
        "Is the aortic wall free of calcification?" + YES_NO,
        "Is the aorta without plaques?",
    ),
    "Medical material": ("Is the chest free of medical devices?" + YES_NO, "Is the scan without implanted material?"),
}
WHICH_PRESENT = (
    "Which of these findings is present?" + CHOICE,
    "Which abnormality does this CT show?" + CHOICE,
    "Pick the finding that can be seen in this scan.",
    "One of these is present in the scan. Which one?",
)
WHICH_ABSENT = (
    "Which of these findings is absent?" + CHOICE,
    "Which abnormality is not present in this CT?" + CHOICE,
    "Pick the finding that cannot be seen in this scan.",
    "All but one of these are present in the scan. Which one is missing?",
)


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


class QuestionWriter:
    """Writes the instruction records of one case. ``base`` holds the fields that all of them share."""

    def __init__(self, name: str, base: dict, findings: dict[str, Finding], rng: np.random.Generator) -> None:
        self.name, self.base, self.findings, self.rng = name, base, findings, rng
        self.present = [d for d in DISEASES if d in findings]
        self.missing = [d for d in DISEASES if d not in findings]

    def record(self, task: str, turn: int, text: str, answer: str, **fields: Any) -> dict:
        """One record of the instruction manifest."""
        question = [{"type": "image"}, {"type": "text", "text": text}]
        return {
            "id": f"{self.name}_{task}_{turn}",
            "task": task,
            "question": question,
            "answer": answer,
            **self.base,
            **fields,
        }

    def report(self, report: str) -> list[dict]:
        """The request for a report."""
        return [self.record("report_generation", 0, _pick(self.rng, REPORT_QUESTIONS), report)]

    def diagnosis(self) -> list[dict]:
        """The request for all 18 confidences."""
        answer = ", ".join(f"{name} <disease_confidence>" for name in DISEASES) + "."
        targets = {name: int(name in self.findings) for name in DISEASES}
        return [
            self.record(
                "diagnosis", 0, _pick(self.rng, DIAGNOSIS_QUESTIONS), answer, label_set="CT-RATE", targets=targets
            )
        ]

    def open_vqa(self, limit: int) -> list[dict]:
        """Open questions on details; some are about findings that are absent, with the answer "None."."""
        pool = open_only(self.findings)
        for topic in topics(self.findings):
            if topic.answer or topic.absent:
                pool.append((topic.questions, topic.answer or topic.absent))
        order = self.rng.permutation(len(pool))[:limit]
        return [
            self.record("open_vqa", turn, _pick(self.rng, pool[i][0]), f"{pool[i][1]}.") for turn, i in enumerate(order)
        ]

    def multiple_choice(self, limit: int) -> list[dict]:
        """Three or four choices with letters; the right one is at a random place.

        In random order, each detail is asked for once, and which finding is present and which is absent; where that is
        fewer than the limit, another round of the same follows, with wordings and choices that are drawn anew.
        """
        details = [(t.questions, list(t.options), t.answer) for t in topics(self.findings) if t.answer]
        pool: list[tuple[tuple[str, ...], list[str], str]] = []
        while len(pool) < limit and (one_round := details + self._which()):
            pool += [one_round[i] for i in self.rng.permutation(len(one_round))[: limit - len(pool)]]
        records = []
        for turn, (questions, options, right) in enumerate(pool):
            options = [options[k] for k in self.rng.permutation(len(options))]
            choices = dict(zip("ABCD", options, strict=False))
            stem = _pick(self.rng, questions)
            token = (
                CHOICE
                if CHOICE in stem or (questions not in (WHICH_PRESENT, WHICH_ABSENT) and self.rng.random() < 0.5)
                else ""
            )
            listed = " ".join(f"{value} ({key})" for key, value in choices.items())
            text = f"{stem.replace(CHOICE, '')} {listed}{token}"
            records.append(self.record("multiple_choice", turn, text, f"{right}.", choices=choices))
        return records

    def _which(self) -> list[tuple[tuple[str, ...], list[str], str]]:
        """Wordings, choices and answer of: which is present, and which is absent, where there are enough for it."""
        found: list[tuple[tuple[str, ...], list[str], str]] = []
        if self.present and len(self.missing) >= 3:
            right = _pick(self.rng, self.present)
            found.append((WHICH_PRESENT, [right, *self.rng.choice(self.missing, 3, replace=False).tolist()], right))
        if self.missing and len(self.present) >= 3:
            right = _pick(self.rng, self.missing)
            found.append((WHICH_ABSENT, [right, *self.rng.choice(self.present, 3, replace=False).tolist()], right))
        return found

    def yes_no(self, limit: int) -> list[dict]:
        """Pairs of one question that is answered yes and one that is answered no, of the same polarity."""
        records: list[dict] = []
        while len(records) + 1 < limit + limit % 2:
            inverse = self.rng.random() < 0.25
            yes = [d for d in (self.missing if inverse else self.present) if not inverse or d in INVERSE]
            no = [d for d in (self.present if inverse else self.missing) if not inverse or d in INVERSE]
            if not (yes and no):
                if not (self.present and self.missing):
                    break
                continue
            pair = [(_pick(self.rng, yes), "Yes."), (_pick(self.rng, no), "No.")]
            for name, answer in pair if self.rng.random() < 0.5 else pair[::-1]:
                text = _pick(self.rng, INVERSE[name] if inverse else IS_THERE).format(inline(name))
                records.append(self.record("yes_no", len(records), text, answer))
        return records[:limit]

    def segmentation(self, limit: int, structures_path: str, lesions_path: str, least_ml: float = 0.3) -> list[dict]:
        """In turn: one structure, two structures, one lesion (where there is one with a mask)."""
        values: dict[str, int | list[int]] = {**STRUCTURES, **GROUPS}
        lesions = [n for n, f in self.findings.items() if f.volume_ml >= least_ml]
        records = []
        for turn in range(limit):
            kind = turn % 3
            if kind == 2 and lesions:
                name = _pick(self.rng, lesions)
                labels, templates = [inline(name)], SEGMENT_LESION
                mask_path = lesions_path
                mask_values: dict[str, int | list[int]] = {inline(name): lesion_values(name)}
            else:
                labels = self.rng.choice(list(values), 2 if kind == 1 else 1, replace=False).tolist()
                templates = SEGMENT_TWO if kind == 1 else SEGMENT_ONE
                mask_path, mask_values = structures_path, {label: values[label] for label in labels}
            text = _pick(self.rng, templates).format(*labels)
            if self.rng.random() < 0.5:  # with each wording: people leave the token out
                text += SEGMENT
            if labels[0] in (*GROUPS, "ribs") and len(labels) == 1:
                text = text.replace("Where is", "Where are")
            answer = "It is <SEG>." if len(labels) == 1 else f"The {labels[0]} is <SEG> and the {labels[1]} is <SEG>."
            records.append(
                self.record(
                    "segmentation", turn, text, answer, labels=labels, mask_path=mask_path, mask_values=mask_values
                )
            )
        return records
