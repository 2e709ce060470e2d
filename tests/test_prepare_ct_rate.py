"""CT-RATE and RadGenome against replicas: every label, report, question and split; and one line for each fault."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from datasets.prepare.found import find
from datasets.prepare.sets import ct_rate, radgenome
from tests.replicas import chest_text
from tests.text_set_checks import assert_true, assert_voxels, problems_of, read_set

CT_RATE, RADGENOME = ct_rate.DATA_SETS[0], radgenome.DATA_SETS[0]


@pytest.fixture
def source(tmp_path):
    return tmp_path / "CT-RATE", chest_text.ct_rate(tmp_path / "CT-RATE")


def edit(path, old, new, encoding="utf-8"):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new).encode(encoding))


def test_every_label_report_question_and_split_is_true(source):
    folder, truth = source
    cases, findings = read_set(CT_RATE, folder)
    assert_true(cases, truth, findings)
    assert_voxels(cases, truth)
    assert findings.version == "v2"
    assert findings.excluded["train_3_b_1 (CTRATE_image_text)"] == "findings and impressions are both empty"
    assert {id: findings.excluded[id] for id in truth.excluded} == dict.fromkeys(
        truth.excluded, "is not a chest (no_chest list)"
    )
    assert findings.facts["manufacturers"] == {"Siemens, Healthineers": 9}


def test_questions_have_their_tasks_and_choices(source):
    cases, findings = read_set(CT_RATE, source[0])
    asked = {case.id: case.questions for case in cases}
    assert [question.task for question in asked["train_1_a_1"]] == [
        "report_generation", "yes_no", "open_vqa", "multiple_choice", "multiple_choice", "open_vqa"
    ]  # fmt: skip
    assert asked["train_1_a_1"][3].choices == {"A": "left", "B": "right", "C": "both"}
    assert asked["train_1_a_1"][4].choices == {"A": "lower", "B": "upper"}
    assert asked["valid_2_a_1"][0].task == "yes_no"
    assert any("1 multiple-choice questions do not tell their choices" in line for line in findings.warnings)


def test_a_part_of_the_download_is_enough_and_what_is_missing_is_counted(source):
    folder, _ = source
    shutil.rmtree(folder / "dataset/train_fixed/train_1")
    shutil.rmtree(folder / "dataset/valid_fixed")
    cases, findings = read_set(CT_RATE, folder)
    assert findings.problems == []
    assert {case.id for case in cases} == {"train_2_a_1", "train_3_b_1", "train_10_a_1"}
    assert any("3 of the 7 volumes with labels were not downloaded" in line for line in findings.warnings)
    assert f"{folder}/dataset/valid_fixed: no volume is here, so nothing of this part is made" in findings.warnings
    assert not any("train_fixed: no volume" in line for line in findings.warnings)


def test_the_folder_dataset_itself_will_do(source):
    cases, findings = read_set(CT_RATE, source[0] / "dataset")
    assert_true(cases, source[1], findings)


def test_a_volume_without_a_row_has_no_labels(source):
    folder, _ = source
    edit(
        folder / "dataset/multi_abnormality_labels/valid_predicted_labels.csv",
        "valid_2_a_1.nii.gz",
        "valid_8_a_1.nii.gz",
    )
    cases, findings = read_set(CT_RATE, folder)
    assert {case.id: case.classes is None for case in cases if case.split == "test"} == {
        "valid_1_a_1": False, "valid_2_a_1": True
    }  # fmt: skip
    assert any("1 (valid_2_a_1.nii.gz) of the 9 volumes have no row with labels" in line for line in findings.warnings)


def test_version_1_is_refused_in_one_line(tmp_path):
    chest_text.ct_rate_version_1(tmp_path)
    (line,) = problems_of(CT_RATE, tmp_path)
    assert "version 1" in line and "placeholders" in line and "train_fixed" in line and "huggingface.co" in line


def test_an_empty_folder_is_one_problem(tmp_path):
    assert len(problems_of(CT_RATE, tmp_path)) == 1


def test_every_fault_of_every_file_is_listed_at_once(source):
    dataset = source[0] / "dataset"
    labels = dataset / "multi_abnormality_labels/train_predicted_labels.csv"
    text = labels.read_text(encoding="utf-8-sig").splitlines()
    text[1] = text[1].replace(",1", ",2")  # the nodule of train_1_a_1
    text.append(text[3])
    text[4] = text[4].replace(",0", ",", 1)
    labels.write_text("\n".join(text), encoding="utf-8")
    edit(dataset / "multi_abnormality_labels/valid_predicted_labels.csv", "Emphysema", "Emphysemas")
    reports = dataset / "radiology_text_reports/train_reports.csv"
    reports.write_bytes(reports.read_text(encoding="utf-8").encode("cp1252"))
    (dataset / "metadata/validation_metadata.csv").write_bytes(b"")
    vqa = dataset / "vqa/valid_vqa.json"
    items = json.loads(vqa.read_text(encoding="utf-8"))
    items[1]["conversations"].pop()
    vqa.write_text(json.dumps(items))
    problems = problems_of(CT_RATE, source[0])
    expected = [
        r"train_predicted_labels.csv: row 2, column Lung nodule: '2' is not 0 or 1",
        r"train_predicted_labels.csv: row 5, column Medical material: '' is not 0 or 1",
        r"train_predicted_labels.csv: row 9: train_2_a_1.nii.gz was already given by row 4",
        r"valid_predicted_labels.csv: has no column 'Emphysema'; did you mean 'Emphysemas'\?",
        r"train_reports.csv: row 6 is not UTF-8",
        r"validation_metadata.csv: is empty",
        r"valid_vqa.json: item 1 \(from 0\), conversations: 1 turns; every question needs its answer",
    ]
    for pattern in expected:
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == len(expected)


@pytest.mark.parametrize("name", ["train_vqa.json", "train_predicted_labels.csv"])
def test_half_a_file_is_a_problem(source, name):
    (path,) = source[0].rglob(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert any(name in line for line in problems_of(CT_RATE, source[0]))


def test_a_header_that_no_row_fits_is_one_problem(source):
    table = source[0] / "dataset/multi_abnormality_labels/train_predicted_labels.csv"
    with open(table, encoding="utf-8-sig") as file:
        header, first, *_ = file.read().splitlines()
    rows = [first.replace("_1.nii.gz", f"_{number}.nii.gz") for number in range(1, 9)]
    table.write_text("\n".join([f"{header},Goitre", *rows]))
    assert problems_of(CT_RATE, source[0]) == [
        f"{table}: row 2 has 19 fields, the header has 20, and 7 more rows do not fit it; download it again"
    ]


def test_an_unknown_label_is_a_problem(source):
    path = source[0] / "dataset/multi_abnormality_labels/valid_predicted_labels.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",Gout", *[line + ",0" for line in lines[1:]]]))
    (line,) = problems_of(CT_RATE, source[0])
    assert "column 'Gout' is not one of the 18 labels" in line


def test_both_are_found_by_their_marks_and_tables_alone_are_not(tmp_path):
    chest_text.ct_rate(tmp_path / "ct_rate")
    chest_text.ct_rate_version_1(tmp_path / "version_1")
    chest_text.radgenome(tmp_path / "radgenome")
    found = find(tmp_path, [CT_RATE, RADGENOME])
    assert found["ct_rate"] == [tmp_path / "ct_rate", tmp_path / "version_1"]
    assert found["radgenome"] == [tmp_path / "radgenome/RadGenome"]


def test_radgenome_takes_the_labels_of_ct_rate_beside_it(tmp_path):
    truth = chest_text.radgenome(tmp_path)
    cases, findings = read_set(RADGENOME, tmp_path / "RadGenome")
    assert_true(cases, truth, findings)
    assert_voxels(cases, truth)
    assert findings.facts["labels from"] == str((tmp_path / "CT-RATE/dataset").resolve())


def test_radgenome_is_told_where_ct_rate_is_or_says_what_it_needs(tmp_path):
    truth = chest_text.radgenome(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a/CT-RATE").rename(tmp_path / "b/tables")
    (line,) = problems_of(RADGENOME, tmp_path / "a/RadGenome")
    assert "--set ct_rate=FOLDER" in line
    cases, findings = read_set(RADGENOME, tmp_path / "a/RadGenome", ct_rate=str(tmp_path / "b/tables"))
    assert_true(cases, truth, findings)
