"""Cases as records of manifests: what is asked of whom, and in which words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from datasets.manifest import InstructionRecord
from datasets.prepare.case import Case, Mask, Question
from datasets.prepare.instruction_rows import QuestionWriter
from datasets.prepare.pretraining_rows import pretraining_rows
from datasets.prepare.uses import BENCHMARKS, pretraining_task, question_task
from datasets.vocabulary import diseases_of

CHOICES = {"A": "left lung", "B": "right lung", "C": "both"}


def case(**fields) -> Case:
    return Case(**{"id": "c1", "patient": "p1", "image": Path("/data/c1.nii.gz"), **fields})


def rows(task, *cases, benchmark=False, **options):
    found = QuestionWriter(task, benchmark, **options).rows(cases)
    return [InstructionRecord.model_validate(row) for row in found]


@pytest.mark.parametrize("answer", ["B", "B.", "b", "right lung"])
def test_closed_questions_keep_their_words_and_the_order_of_their_choices(answer):
    question = Question("Where is the nodule?", answer, CHOICES)
    (record,) = rows(question_task("M3D_Question_Answer"), case(questions=(question,)))
    assert record.text == "Where is the nodule? Choices: A. left lung B. right lung C. both"
    assert (record.task, record.answer, record.choices) == ("multiple_choice", "B. right lung", CHOICES)


def test_choices_that_the_question_names_are_not_listed_again():
    text = "Is it in (A) the left lung, (B) the right lung or (C) both?"
    (record,) = rows(question_task("CTRATE_Question_Answer"), case(questions=(Question(text, "A", CHOICES),)))
    assert record.text == text and record.answer == "A. left lung"


def test_the_open_benchmark_asks_openly():
    questions = (Question("Where is the nodule?", "B", CHOICES), Question("Is there one?", "Yes"))
    records = rows(BENCHMARKS["M3D-VQA"], case(questions=questions), benchmark=True)
    assert [(record.task, record.answer, record.choices) for record in records] == [
        ("open_vqa", "right lung", None),
        ("open_vqa", "Yes", None),
    ]


def test_the_kind_of_a_question_is_told_by_its_answer_or_by_the_data_set():
    questions = (
        Question("Is there one?", "No."),
        Question("What is there?", "A nodule."),
        Question("Write the report.", "Clear lungs.", task="report_generation"),
        Question("Where?", "A", CHOICES, task="open_vqa"),
    )
    records = rows(question_task("CTRATE_Question_Answer"), case(questions=questions, report="Clear lungs."))
    assert [record.task for record in records] == ["yes_no", "open_vqa", "report_generation", "open_vqa"]
    assert len({record.id for record in records}) == 4


def test_a_report_is_asked_for_in_training_where_no_question_does():
    given = case(questions=(Question("Is there one?", "No."),), report="Clear lungs.")
    task = question_task("CTRATE_Question_Answer")
    assert [record.task for record in rows(task, given)] == ["yes_no", "report_generation"]
    assert [record.task for record in rows(BENCHMARKS["CT-RATE-VQA"], given, benchmark=True)] == ["yes_no"]
    assert [record.answer for record in rows(question_task("M3D_Caption"), given)] == ["Clear lungs."]


def test_diagnosis_asks_for_all_diseases_whatever_the_case_of_their_names():
    given = case(classes={"emphysema": 1, "lung nodule": 0, "cardiomegaly": None})
    (record,) = rows(BENCHMARKS["CT-RATE-diagnosis"], given, benchmark=True)
    assert record.targets == {"Emphysema": 1, "Lung nodule": 0, "Cardiomegaly": None}
    assert record.answer.count("<disease_confidence>") == len(diseases_of("CT-RATE"))
    kinds = [found.task for found in rows(question_task("CTRATE_Diagnosis"), given)]
    assert kinds[0] == "diagnosis" and sorted(kinds[1:]) == ["yes_no", "yes_no"]
    assert rows(BENCHMARKS["CT-RATE-diagnosis"], case(classes={"emphysema": None}), benchmark=True) == []


def test_other_cases_keep_their_questions_when_one_is_added():
    def given(number):
        masks = {name: Mask((Path(f"/data/{number}.nii.gz"),), (value,)) for value, name in enumerate("abcdefg", 1)}
        return case(id=str(number), patient=str(number), masks=masks)

    task = question_task("own_Seg")
    few = rows(task, *map(given, range(5)))
    more = rows(task, *random.Random(0).sample(list(map(given, range(9))), 9))
    assert {record.id for record in few} <= {record.id for record in more}
    assert all(record in more for record in few)
    assert len({record.text for record in few}) > 5
    assert rows(task, *map(given, range(5)), seed=1) != few


def test_structures_of_the_benchmark_alone_and_those_that_are_present():
    masks = {
        name: Mask((Path("/data/m.nii.gz"),), (value,)) for value, name in enumerate(("liver", "aorta", "spleen"), 1)
    }
    records = rows(BENCHMARKS["AbdomenCT-1K"], case(masks=masks), benchmark=True)
    assert [record.labels for record in records] == [["liver"], ["spleen"]]
    (record,) = rows(BENCHMARKS["AbdomenCT-1K"], case(masks=masks), benchmark=True, present={"c1": ["spleen", "aorta"]})
    assert (record.labels, record.mask_values) == (["spleen"], {"spleen": 3})


def test_preprocessed_crops_come_with_their_boxes():
    crop = {
        "renorm_image": "/data/npy/c1.npy",
        "chwd": [1, 9, 9, 9],
        "labels": ["spleen", "liver", "kidney"],
        "renorm_segmentation_dir": "/data/npy/c1",
        "renorm_y1x1z1_y2x2z2": [[0, 0, 0, 3, 3, 3], False, [1, 1, 1, 2, 2, 2]],
    }
    given = case(image=Path("/data/npy/c1.npy"), record=crop)
    records = rows(BENCHMARKS["AbdomenCT-1K"], given, benchmark=True)
    assert [(record.labels, record.mask_path, record.mask_boxes) for record in records] == [
        (["spleen"], ["/data/npy/c1/spleen.npy"], [[(0, 0, 0, 3, 3, 3)]]),
        (["kidney"], ["/data/npy/c1/kidney.npy"], [[(1, 1, 1, 2, 2, 2)]]),
    ]
    task = pretraining_task("AbdomenCT1K_structure_segmentation")
    assert pretraining_rows([given], task) == ([{**crop, "patient_id": "p1"}], {})


def test_pretraining_records_have_the_tasks_labels_and_offsets():
    task = pretraining_task("AbdomenCT1K_structure_segmentation")
    masks = {"Liver": Mask((Path("/data/m.nii.gz"),), (1,)), "aorta": Mask((Path("/data/m.nii.gz"),), (2,))}
    (row,), faults = pretraining_rows([case(masks=masks, hu_offset=-1000), case(report="x")], task)
    assert row == {
        "image_path": "/data/c1.nii.gz",
        "labels": ["liver"],
        "mask_path": "/data/m.nii.gz",
        "mask_values": {"liver": 1},
        "patient_id": "p1",
        "hu_offset": -1000,
    }
    assert faults == {}
    _, faults = pretraining_rows([case(classes={"gout": 1})], pretraining_task("RadGenome_disease_classification"))
    assert faults["c1"].startswith("/data/c1.nii.gz: RadGenome_disease_classification, ") and "'gout'" in faults["c1"]


def test_cases_go_to_their_tasks_alone():
    given = case(report="Clear.", tasks=("M3D_Caption",))
    assert len(rows(question_task("M3D_Caption"), given)) == 1
    assert rows(question_task("CTRATE_Question_Answer"), given) == []
    assert pretraining_rows([given], pretraining_task("CTRATE_image_text")) == ([], {})
