"""Reports and questions of the phantoms against the truth that they are written from, and their balance."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from datasets.phantom.case import draw_findings
from datasets.phantom.lesions import DISEASES, Finding
from datasets.phantom.questions import INVERSE, IS_THERE, WHICH_ABSENT, WHICH_PRESENT, QuestionWriter
from datasets.phantom.text import write_report
from datasets.phantom.topics import SIDED, topics
from evaluation.metrics.choices import parse_letter
from evaluation.metrics.report_labels import label_report

TOKENS = {
    "yes_no": "<binary_answer>",
    "multiple_choice": "<multiple_choice>",
    "report_generation": "<report_generation>",
    "segmentation": "<segmentation>",
    "diagnosis": "<diagnosis>",
}


def random_findings(index: int) -> dict[str, Finding]:
    """Records as the painters give them, without voxels."""
    rng = np.random.default_rng(index)
    pick = lambda *items: str(rng.choice(items))  # noqa: E731
    findings = {}
    for name in draw_findings(11, index, 0.3):
        finding = Finding(name, volume_ml=0.0 if name == "Cardiomegaly" else 5.0, size_mm=20.0)
        if name in SIDED:
            finding.side = pick("left", "right", "both")
        if name == "Lung nodule":
            finding.count, finding.grade = int(rng.integers(1, 5)), pick("small", "medium", "large")
            finding.place = f"{pick('left', 'right')} {pick('upper', 'lower')}"
        elif name == "Consolidation":
            finding.side, finding.place = pick("left", "right"), pick("upper", "lower")
        elif name == "Medical material":
            finding.kind = pick("pacemaker", "port catheter", "sternal wires", "spinal rods")
            finding.side = pick("left", "right")
        elif name == "Lymphadenopathy":
            finding.count, finding.place = int(rng.integers(1, 5)), "subcarinal"
        elif name == "Coronary artery wall calcification":
            finding.count, finding.place = int(rng.integers(1, 4)), "circumflex"
        elif name == "Pleural effusion":
            finding.grade = pick("small", "moderate", "large")
        elif name in ("Arterial wall calcification", "Emphysema"):
            finding.grade = pick("mild", "severe")
        elif name == "Pericardial effusion":
            finding.grade = pick("small", "large")
        findings[name] = finding
    return findings


@cache
def records_of(index: int) -> list[dict]:
    findings = random_findings(index)
    writer = QuestionWriter(f"case{index}", {}, findings, np.random.default_rng([1, index]))
    return [
        *writer.report(write_report(findings, np.random.default_rng([2, index]))),
        *writer.diagnosis(),
        *writer.open_vqa(6),
        *writer.multiple_choice(6),
        *writer.yes_no(6),
        *writer.segmentation(3, "structures.nii.gz", "lesions.nii.gz"),
    ]


def text_of(record: dict) -> str:
    return record["question"][1]["text"]


def all_records(task: str, cases: int = 400) -> list[tuple[dict[str, Finding], dict]]:
    return [(random_findings(i), r) for i in range(cases) for r in records_of(i) if r["task"] == task]


def test_an_independent_reader_finds_the_labels_in_every_report() -> None:
    for index in range(300):
        findings = random_findings(index)
        report = write_report(findings, np.random.default_rng([2, index]))
        read = {name.lower(): value for name, value in label_report(report).items()}
        assert read == {name.lower(): int(name in findings) for name in DISEASES}, report
        assert report.count("Findings:") == report.count("Impression:") == 1
        assert "{" not in report and "  " not in report
        assert label_report(report.split("Impression:")[1]) == label_report(report)  # the impression leaves nothing out


def test_reports_name_side_and_number() -> None:
    findings = {
        "Lung nodule": Finding("Lung nodule", "right", 3, 21.4, "right upper", "medium"),
        "Pleural effusion": Finding("Pleural effusion", "left", 1, 30, grade="moderate"),
    }
    wordings = {write_report(findings, np.random.default_rng(seed)) for seed in range(40)}
    assert len(wordings) > 30
    for report in wordings:
        details = report.split("Impression:")[0]
        assert "hree" in details and "21 mm" in details and "right lung" in details
        assert "left" in details and "oderate" in details


def test_letters_are_uniform_and_lead_to_the_right_choice() -> None:
    letters: dict[int, Counter] = {3: Counter(), 4: Counter()}
    by_content: Counter = Counter()
    for _, record in all_records("multiple_choice"):
        right, letter = record["answer"].removesuffix("."), parse_letter(record["answer"], record["choices"])
        assert record["choices"][letter] == right and len(set(record["choices"].values())) == len(record["choices"])
        assert all(f"{value} ({key})" in text_of(record) for key, value in record["choices"].items())
        letters[len(record["choices"])][letter] += 1
        by_content[right] += 1
    for number, counts in letters.items():
        total = sum(counts.values())
        assert total > 300 and set(counts) == set("ABCD"[:number])
        chi2 = sum((n - total / number) ** 2 / (total / number) for n in counts.values())
        assert chi2 < 16.3  # 0.1 % point for three degrees of freedom
    sides = [by_content[f"{side} side"] for side in ("Left", "Right")]
    assert 0.8 < sides[0] / sides[1] < 1.25


def test_choices_name_exactly_one_finding_that_fits() -> None:
    stems = {
        "present": tuple(q.split(" <")[0] for q in WHICH_PRESENT),
        "absent": tuple(q.split(" <")[0] for q in WHICH_ABSENT),
    }
    asked = Counter()
    for findings, record in all_records("multiple_choice"):
        for kind, starts in stems.items():
            if text_of(record).startswith(starts):
                fitting = [c for c in record["choices"].values() if (c in findings) == (kind == "present")]
                assert fitting == [record["answer"].removesuffix(".")]
                asked[kind] += 1
    assert min(asked.values()) > 50


def test_more_choices_than_details_go_on_with_rounds_of_the_same() -> None:
    which = tuple(q.split(" <")[0] for q in (*WHICH_PRESENT, *WHICH_ABSENT))
    for index in range(40):
        findings = random_findings(index)
        writer = QuestionWriter(f"case{index}", {}, findings, np.random.default_rng([1, index]))
        records = writer.multiple_choice(60)
        if not findings:
            assert not records, "none is present to be told from others, and too few to be told from the absent one"
            continue
        details = [topic for topic in topics(findings) if topic.answer]
        of_which = 1 + (len(findings) >= 3)  # and there are 18
        assert len(records) == 60 == len({record["id"] for record in records})
        rounds = np.array_split(records, range(len(details) + of_which, 60, len(details) + of_which))
        for one_round in rounds[:-1]:
            asked = Counter(tuple(sorted(record["choices"].values())) for record in one_round
                            if not text_of(record).startswith(which))  # fmt: skip
            assert asked == Counter(tuple(sorted(topic.options)) for topic in details)
        chosen = {(text_of(record), record["answer"]) for record in records}
        assert len(chosen) > 2 * len(rounds[0]), "other wordings and choices in each round"


def test_yes_and_no_are_balanced_for_each_wording_and_true() -> None:
    disease_of = {q.format(name.lower()): (name, False) for name in DISEASES for q in IS_THERE}
    disease_of |= {q: (name, True) for name, questions in INVERSE.items() for q in questions}
    counts: dict[bool, Counter] = {False: Counter(), True: Counter()}
    per_disease: Counter = Counter()
    for findings, record in all_records("yes_no", cases=1000):
        name, inverse = disease_of[text_of(record)]
        assert record["answer"] == ("Yes." if (name in findings) != inverse else "No.")
        counts[inverse][record["answer"]] += 1
        per_disease[name, record["answer"]] += 1
    for answers in counts.values():
        assert answers["Yes."] == answers["No."] > 100
    for name in DISEASES:  # a disease's name alone says little
        assert 0.55 < per_disease[name, "Yes."] / per_disease[name, "No."] < 1.8


@pytest.mark.parametrize("task", list(TOKENS))
def test_about_half_of_the_questions_carry_the_task_token(task: str) -> None:
    texts = [text_of(record) for _, record in all_records(task)]
    marked = [text.endswith(f" {TOKENS[task]}") for text in texts]
    assert 0.35 < np.mean(marked) < 0.65
    assert all(text.count("<") == mark for text, mark in zip(texts, marked, strict=True))


def test_open_answers_follow_from_the_truth() -> None:
    number = {0: "None.", 1: "One.", 2: "Two.", 3: "Three.", 4: "Four."}
    checked = Counter()
    for findings, record in all_records("open_vqa"):
        text, answer = text_of(record), record["answer"]
        if "number of lung nodules" in text or "many lung nodules" in text:
            assert answer == number[findings["Lung nodule"].count if "Lung nodule" in findings else 0]
            checked["number"] += 1
        elif "size of the heart" in text or text.startswith("How large is the heart"):
            assert answer == ("Enlarged." if "Cardiomegaly" in findings else "Normal.")
            checked["heart"] += 1
        elif "side" in text:
            name = next(name for name in SIDED if name.lower() in text)
            assert answer == {"left": "Left side.", "right": "Right side.", "both": "Both sides."}[findings[name].side]
            checked["side"] += 1
    assert len(checked) == 3 and min(checked.values()) > 50


def test_diagnosis_lists_every_disease_in_order() -> None:
    for findings, record in all_records("diagnosis", 20):
        assert [part.split(" <")[0] for part in record["answer"].rstrip(".").split(", ")] == list(DISEASES)
        assert record["answer"].count("<disease_confidence>") == 18
        assert record["targets"] == {name: int(name in findings) for name in DISEASES}


def test_segmentation_asks_for_what_is_there() -> None:
    lesions = 0
    for findings, record in all_records("segmentation", 200):
        assert record["answer"].count("<SEG>") == len(record["labels"]) == len(record["mask_values"])
        assert all(label in text_of(record) for label in record["labels"])
        if record["mask_path"] == "lesions.nii.gz":
            assert record["labels"][0] in {name.lower() for name in findings} and record["labels"] != ["cardiomegaly"]
            lesions += 1
    assert lesions > 100


def test_limit_holds_for_each_task() -> None:
    for limit in (0, 1, 3):
        findings = random_findings(3)
        writer = QuestionWriter("case", {}, findings, np.random.default_rng(0))
        assert len(findings) > 2
        for task in (writer.open_vqa, writer.multiple_choice, writer.yes_no):
            assert len(task(limit)) == limit
