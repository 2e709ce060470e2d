"""M3D-Cap and M3D-VQA against replicas: texts by their rule, splits, and questions with and without choices."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.prepare.sets import m3d
from datasets.volume.loading import read_volume
from tests.replicas import report_sets
from tests.text_set_checks import assert_true, problems_of, read_set

CAPTIONS, QUESTIONS = m3d.DATA_SETS


@pytest.fixture
def captions(tmp_path):
    return tmp_path, report_sets.m3d_cap(tmp_path)


@pytest.fixture
def questions(tmp_path):
    return tmp_path, report_sets.m3d_vqa(tmp_path)


def test_every_report_and_split_is_true(captions):
    folder, truth = captions
    cases, findings = read_set(CAPTIONS, folder)
    assert_true(cases, truth, findings)
    assert any("1 (M3D_Cap_npy/ct_case/000022/Axial_lung_window.npy) of 8" in line for line in findings.warnings)


def test_arrays_load_slice_row_column(captions):
    """As they are, since nobody knows which way the slices run; the reader says so."""
    cases, findings = read_set(CAPTIONS, captions[0])
    assert findings.facts["array_axes"] == "as_stored"
    array, _ = read_volume(cases[0].image, array_axes=findings.facts["array_axes"])
    assert np.array_equal(array, np.load(cases[0].image))


@pytest.mark.parametrize("place", ["M3D_Cap_npy", "."])
def test_the_index_may_lie_with_the_arrays(captions, place):
    folder, truth = captions
    shutil.move(folder / "M3D_Cap/M3D_Cap.json", folder / place)
    cases, findings = read_set(CAPTIONS, folder)
    assert_true(cases, truth, findings)


def test_arrays_that_were_not_made_are_one_problem(captions):
    shutil.rmtree(captions[0] / "M3D_Cap_npy")
    (line,) = problems_of(CAPTIONS, captions[0])
    assert "m3d_cap_data_prepare.py" in line


def test_faults_of_the_index_are_listed_at_once(captions):
    path = captions[0] / "M3D_Cap/M3D_Cap.json"
    index = json.loads(path.read_text())
    index["test"].append(index["train"][0])
    del index["train"][2]["text"]
    path.write_text(json.dumps(index))
    (captions[0] / "M3D_Cap_npy/ct_case/000020/text.txt").write_bytes("Œdème.".encode("cp1252"))
    problems = problems_of(CAPTIONS, captions[0])
    for pattern in (
        r"M3D_Cap.json: train, item 2 \(from 0\): must have image and text",
        r"M3D_Cap.json: test, item 1 \(from 0\): \S+ was already given by train, item 0",
        r"000020/text.txt: line 1 is not UTF-8",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 3


def test_every_question_and_split_is_true(questions):
    folder, truth = questions
    cases, findings = read_set(QUESTIONS, folder)
    assert_true(cases, truth, findings)
    assert findings.facts["questions"] == {"closed": 4, "open": 5, "yes or no": 1}
    assert any("M3D_VQA_test5k.csv is taken" in line for line in findings.warnings)
    assert {case.patient for case in cases} == {case.patient for case in cases if case.id.startswith(case.patient)}


def test_choices_keep_their_order_and_words(questions):
    cases, _ = read_set(QUESTIONS, questions[0])
    by_id = {case.id: case.questions for case in cases}
    closed = by_id["ct_case/000006/Axial_bone_window"][2]
    assert closed.choices == {"A": "Liver", "B": "Bone, tibia", "C": "Lung", "D": "Heart"}
    assert (closed.answer, closed.task) == ("B", "multiple_choice")
    assert by_id["ct_case/000020/Axial_lung_window"][0].task == "yes_no"
    assert [question.task for question in by_id["ct_quizze/007721/Axial_non_contrast"]] == ["open_vqa"]


def test_settings_choose_the_table_and_the_form(questions):
    cases, findings = read_set(QUESTIONS, questions[0], test="test", training="closed", testing="open;closed")
    assert sum(case.split == "test" for case in cases) == 2
    assert findings.facts["questions"] == {"closed": 6, "open": 2, "yes or no": 1}
    assert not any("test5k" in line for line in findings.warnings)
    with pytest.raises(InputError, match="--set training: 'closd' is not one of open, closed"):
        read_set(QUESTIONS, questions[0], training="closd")


def test_arrays_may_lie_beside_the_tables_or_elsewhere(questions, tmp_path_factory):
    folder, truth = questions
    cases, findings = read_set(QUESTIONS, folder / "M3D_VQA")
    assert_true(cases, truth, findings)
    elsewhere = tmp_path_factory.mktemp("arrays")
    shutil.move(folder / "M3D_Cap_npy", elsewhere)
    cases, findings = read_set(QUESTIONS, folder, m3d_cap=str(elsewhere))
    assert_true(cases, truth, findings)


def test_an_answer_that_is_not_the_choice_of_its_letter_is_noted(questions):
    train = questions[0] / "M3D_VQA/M3D_VQA_train.csv"
    _, findings = read_set(QUESTIONS, questions[0])
    assert not any("their letters" in line for line in findings.warnings)
    train.write_text(train.read_text().replace(",Axial,A\n", ",Axial,B\n"))
    _, findings = read_set(QUESTIONS, questions[0])
    (line,) = [line for line in findings.warnings if "their letters" in line]
    assert "1 (M3D_VQA_train.csv: row 2)" in line


def test_faults_of_the_tables_are_listed_at_once(questions):
    tables = questions[0] / "M3D_VQA"
    train, test = tables / "M3D_VQA_train.csv", tables / "M3D_VQA_test5k.csv"
    train.write_text(train.read_text().replace(",Axial,A\n", ",Axial,E\n").replace("Which phase is it?", ""))
    test.write_text(
        test.read_text().replace("ct_quizze/007721", "ct_case/000006").replace("non_contrast", "bone_window")
    )
    val = tables / "M3D_VQA_val.csv"
    val.write_text(val.read_text().replace("Answer Choice", "Right"))
    problems = problems_of(QUESTIONS, questions[0])
    for pattern in (
        r"M3D_VQA_train.csv: row 2, column Answer Choice: 'E' is not one of the choices A, B, C, D",
        r"M3D_VQA_train.csv: row 4: Image Path, Question and Answer must not be empty",
        r"M3D_VQA_val.csv: has no column 'Answer Choice'",
        r"M3D_VQA_test5k.csv: row 2: \S+ is in train already",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 4
