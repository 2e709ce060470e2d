"""Instruction builders: what is asked agrees with the records, and wrong rows are named."""

from __future__ import annotations

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from datasets.manifest import load_manifest
from datasets.prepare.instructions import main
from datasets.vocabulary import diseases_of
from evaluation.answering.benchmarks import check_manifest, find_benchmark


@pytest.fixture
def write(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").touch()
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[1], labels[2, 0] = 1, 2, 3
    for name, array in (("m", labels), ("liver", labels == 1), ("spleen", labels > 1), ("empty", labels == 9)):
        nib.save(nib.Nifti1Image(array.astype(np.uint8), np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")

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
    assert len(records) == 20 and {len(record.labels) for record in records} == {1}, "each structure once a volume"
    _, records, _ = write("segmentation", rows, "--absent", "ask")
    for record in records:
        assert record.answer.count("<SEG>") == len(record.labels)
        assert all(label in record.text for label in record.labels)
        if isinstance(record.mask_path, list):
            assert [path.rsplit("/", 1)[1].split(".")[0] for path in record.mask_path] == record.labels
        else:
            assert {label: masks["mask_values"][label] for label in record.labels} == record.mask_values


def test_no_structure_is_asked_for_twice_about_a_volume(write):
    labels = [f"part {number}" for number in range(1, 9)]
    masks = {"mask_path": ["liver.nii.gz"] * 8}
    _, records, _ = write("segmentation", [{"image_path": "a.nii.gz", "labels": labels, **masks}])
    assert [len(record.labels) for record in records] == [1, 3, 1, 3]
    assert sorted(label for record in records for label in record.labels) == labels


def test_an_absent_structure_is_left_out_or_said_to_be_absent(write):
    labels = ["liver", "kidney", "spleen", "gallbladder"]
    masks = {"mask_path": ["m.nii.gz", ["empty.nii.gz", "empty.nii.gz"], "spleen.nii.gz", "m.nii.gz"],
             "mask_values": {"liver": 1, "gallbladder": 7}}  # fmt: skip
    rows = [{"image_path": "a.nii.gz", "labels": labels, **masks}] * 4

    def asked(records):
        return {label for record in records for label in record.labels}

    _, records, _ = write("segmentation", rows)
    assert asked(records) == {"liver", "spleen"}
    _, records, _ = write("segmentation", rows, "--absent", "say")
    without = [record for record in records if "<SEG>" not in record.answer]
    assert asked(records) == {"liver", "spleen"} and len(without) == 8
    for record in without:
        named = next(label for label in labels if label in record.text)
        assert named in ("kidney", "gallbladder") and f"he {named} is not" in record.answer
        assert (record.task, record.labels, record.mask_path) == ("segmentation", [], None)
    _, records, _ = write("segmentation", rows, "--absent", "ask", "--questions", "8")
    assert asked(records) == set(labels)


def test_closed_questions_keep_their_order_where_that_is_asked(write):
    row = {"image_path": "a.nii.gz", "question": "Which side?", "answer": "B"}
    _, records, _ = write("vqa", [{**row, "choices": {"A": "left", "B": "right", "C": "both"}}], "--keep_choices")
    assert records[0].text == "Which side? Choices: A. left B. right C. both"
    assert records[0].answer.startswith("B. right") and records[0].choices == {"A": "left", "B": "right", "C": "both"}


def test_a_target_that_is_the_source_is_refused_and_a_failure_leaves_nothing(write, tmp_path, capsys):
    status, _, target = write("report", [{"image_path": "a.nii.gz", "report": "Air."}])
    before = target.read_text()
    assert status == 0 and write("report", [{"image_path": "gone.nii.gz", "report": "Air."}])[0] == 2
    assert target.read_text() == before and [path.name for path in target.parent.iterdir()] == [target.name]
    assert f"{target}: row 0, field image_path: no such file" in capsys.readouterr().err
    source = tmp_path / "in" / "records.json"
    assert main(["report", str(source), str(source)]) == 2
    assert "is the source itself" in capsys.readouterr().err


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
