"""Instruction builders: what is asked agrees with the records, and wrong rows are named."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from datasets.manifest import load_manifest
from datasets.prepare.instructions import main
from datasets.vocabulary import diseases_of
from evaluation.answering.benchmarks import check_manifest, find_benchmark


@pytest.fixture
def write(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.nii.gz", "m.nii.gz", "liver.nii.gz", "spleen.nii.gz"):
        (tmp_path / "in" / name).touch()

    def convert(kind, rows, *options):
        (tmp_path / "in" / "records.json").write_text(json.dumps(rows))
        target = tmp_path / "out" / "deep" / "train.json"
        status = main([kind, str(tmp_path / "in" / "records.json"), str(target), *options])
        return status, load_manifest(target) if status == 0 else None, target

    return convert


def test_classes_become_a_diagnosis_and_balanced_questions(write):
    truth = {"Emphysema": 1, "Lung nodule": 1, "Atelectasis": 0, "Hiatal hernia": 0, "Cardiomegaly": None}
    rows = [{"image_path": "a.nii.gz", "disease_label": truth, "patient_id": "p"}] * 20
    status, records, target = write("classification", rows, "--label_set", "CT-RATE")
    assert status == 0
    counts = Counter(record.task for record in records)
    assert counts == {"diagnosis": 20, "yes_no": 80}
    diagnosis = next(record for record in records if record.task == "diagnosis")
    assert dict(zip(diseases_of("CT-RATE"), diagnosis.target_vector(), strict=True))["Emphysema"] == 1
    answers = Counter()
    for record in records:
        if record.task == "yes_no":
            asked = next(name for name in truth if name.lower() in record.text.lower())
            assert record.answer.startswith("Yes" if truth[asked] else "No")
            answers[record.answer[:2]] += 1
    assert answers["Ye"] == answers["No"]
    assert len({record.text for record in records if record.task == "yes_no"}) > 8, "several phrasings"
    assert len({record.id for record in records}) == len(records)
    first = target.read_bytes()
    write("classification", rows, "--label_set", "CT-RATE")
    assert target.read_bytes() == first, "the same seed gives the same file"
    write("classification", rows, "--label_set", "CT-RATE", "--seed", "1")
    assert target.read_bytes() != first


@pytest.mark.parametrize(
    "masks",
    [
        {"mask_path": "m.nii.gz", "mask_values": {"liver": 1, "spleen": [2, 3]}},
        {"mask_path": ["liver.nii.gz", "spleen.nii.gz"]},
        {"mask_path": {"liver": "liver.nii.gz", "spleen": "spleen.nii.gz"}},
    ],
)
def test_masks_follow_their_structures(write, masks):
    rows = [{"image_path": "a.nii.gz", "labels": ["liver", "spleen"], **masks}] * 10
    _, records, _ = write("segmentation", rows)
    assert {len(record.labels) for record in records} == {1, 2}
    for record in records:
        assert record.answer.count("<SEG>") == len(record.labels)
        assert all(label in record.text for label in record.labels)
        if isinstance(record.mask_path, list):
            assert [path.rsplit("/", 1)[1].split(".")[0] for path in record.mask_path] == record.labels
        else:
            assert {label: masks["mask_values"][label] for label in record.labels} == record.mask_values


def test_reports_and_questions(write):
    _, records, _ = write("report", [{"image_path": "a.nii.gz", "report": "Findings: none."}])
    assert records[0].task == "report_generation" and records[0].answer == "Findings: none."
    row = {"image_path": "a.nii.gz", "question": "Which side?"}
    _, records, _ = write(
        "vqa",
        [
            {**row, "answer": "left"},
            {**row, "answer": "Yes."},
            *[{**row, "answer": "B", "choices": {"A": "left", "B": "right", "C": "both"}}] * 30,
        ],
    )
    assert [record.task for record in records[:3]] == ["open_vqa", "yes_no", "multiple_choice"]
    letters = Counter()
    for record in records[2:]:
        letter = record.answer[0]
        assert record.choices[letter] == "right" and f"{letter}. right" in record.text
        letters[letter] += 1
    assert len(letters) == 3, "the right letter moves"


def test_manifests_of_benchmarks_ask_for_one_thing_only(write):
    """As `evaluate_CTInstruct.py --benchmark` takes them."""
    names = diseases_of("RadChestCT")
    rows = [
        {"image_path": "a.nii.gz", "disease_label": label} for label in ({names[0]: 1, names[1]: 0}, [names[2]], [])
    ]
    _, records, target = write("diagnosis", rows, "--label_set", "RadChestCT")
    check_manifest(find_benchmark("RadChestCT"), records, target)
    assert [record.targets for record in records] == [
        {names[0]: 1, names[1]: 0},
        {name: int(name == names[2]) for name in names},
        dict.fromkeys(names, 0),
    ]
    row = {"image_path": "a.nii.gz", "question": "Which side?"}
    rows = [{**row, "answer": "Yes."}, {**row, "answer": "B.", "choices": {"A": "left", "B": "right"}}]
    _, records, target = write("open_vqa", rows)
    check_manifest(find_benchmark("M3D-VQA"), records, target)
    assert [(record.text, record.answer, record.choices) for record in records] == [
        ("Which side?", "Yes.", None),
        ("Which side?", "right", None),
    ]


def test_a_diagnosis_without_a_label_set_is_refused(write, capsys):
    assert write("diagnosis", [{"image_path": "a.nii.gz", "disease_label": []}])[0] == 2
    assert "--label_set is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "row", "complaint"),
    [
        ("report", {"image_path": "a.nii.gz"}, "records.json: row 0, field report: is missing"),
        ("classification", {"image_path": "a.nii.gz", "disease_label": {"Gout": 1}}, "'Gout' is not a disease"),
        (
            "vqa",
            {"image_path": "a.nii.gz", "question": "?", "answer": "Z", "choices": {"A": "x"}},
            "not one of the choices",
        ),
        (
            "segmentation",
            {"image_path": "a.nii.gz", "labels": ["liver"], "mask_path": "m.nii.gz", "mask_values": {}},
            "liver",
        ),
        ("report", {"image_path": "gone.nii.gz", "report": "x"}, "no such file"),
        ("report", "a.nii.gz", "records.json: row 0, must be a record, not str"),
    ],
)
def test_a_wrong_row_is_named(write, capsys, kind, row, complaint):
    status, _, _ = write(kind, [row], *(["--label_set", "CT-RATE"] if kind == "classification" else []))
    assert status == 2
    assert complaint in capsys.readouterr().err
