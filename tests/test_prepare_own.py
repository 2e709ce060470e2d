"""A person's own table against the volumes that it names; every fault of a table is one line with its row."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.prepare.sets import own
from datasets.volume.loading import read_mask, read_volume
from tests.replicas import own_data
from tests.text_set_checks import assert_true, assert_voxels, problems_of, read_set

(OWN,) = own.DATA_SETS


@pytest.fixture
def source(tmp_path):
    return tmp_path, own_data.own(tmp_path)


def rewrite(folder, *changes, encoding="utf-8"):
    path = folder / "table.csv"
    text = path.read_bytes().decode("utf-8-sig")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_bytes(text.encode(encoding))


def test_everything_that_a_table_says_is_true(source):
    folder, truth = source
    cases, findings = read_set(OWN, folder)
    assert_true(cases, truth, findings)
    assert_voxels(cases, truth)
    assert findings.warnings == []
    first = cases[0].questions
    assert (first[0].task, first[1].task, first[1].answer) == ("yes_no", "multiple_choice", "B")
    assert first[1].choices == {"A": "left", "B": "right", "C": "both"}


def test_masks_are_those_of_the_phantoms(source):
    folder, truth = source
    cases, _ = read_set(OWN, folder)
    count = 0
    for case in cases:
        _, geometry = read_volume(case.image)
        assert set(case.masks) == set(truth.cases[case.id].masks)
        for label, mask in case.masks.items():
            values = None if mask.values is None else [list(mask.values)]
            found = read_mask(mask.files[0], geometry, values)[0]
            assert np.array_equal(found, truth.cases[case.id].masks[label]), (case.id, label)
            count += 1
    assert count == 5


def test_a_label_set_can_be_named(source):
    folder, _ = source
    rewrite(
        folder, ("Edema; effusion", "emphysema;lung nodule"), ("nodule;Edema", "Cardiomegaly"), (",effusion,", ",none,")
    )
    cases, findings = read_set(OWN, folder, label_set="CT-RATE")
    assert findings.problems == []
    assert [label for label, value in cases[0].classes.items() if value] == ["Emphysema", "Lung nodule"]
    assert len(cases[0].classes) == 18
    (line,) = problems_of(OWN, folder, label_set="RadChestCT;Emphysema;Lung nodule;Cardiomegali")
    assert "row 8, column labels: 'Cardiomegaly' is not one of the label set; did you mean 'Cardiomegali'?" in line


def test_a_mask_without_a_name_is_that_of_the_setting(source):
    folder, _ = source
    rewrite(folder, ("spleen=c/spleen.nii.gz", "c/spleen.nii.gz"))
    (line,) = problems_of(OWN, folder)
    assert "row 7, column mask: 'c/spleen.nii.gz' names no structure" in line
    cases, _ = read_set(OWN, folder, mask_label="spleen")
    assert list(cases[2].masks) == ["spleen"]


def test_a_mask_without_a_name_is_that_of_the_only_label(source):
    folder, _ = source
    rewrite(folder, ("effusion,liver=f/organs.nii.gz#1", "effusion,f/organs.nii.gz#1"))
    cases, findings = read_set(OWN, folder)
    assert (
        findings.problems == [] and list(cases[5].masks) == ["effusion"] and cases[5].masks["effusion"].values == (1,)
    )


def test_a_table_of_semicolons_is_told_as_such(source):
    (source[0] / "table.csv").write_text("image;report\na/ct.nii.gz;Normal.\n")
    (line,) = problems_of(OWN, source[0])
    assert "its columns are parted by ';'; save it with commas" in line


def test_a_table_of_images_and_reports_alone(source):
    folder, _ = source
    (folder / "other.csv").write_text("image,report\na/ct.nii.gz,Normal.\nb/ct.nii.gz,A cyst.\n")
    cases, findings = read_set(OWN, folder, table="other.csv")
    assert [(case.patient, case.split, case.report, case.classes) for case in cases] == [
        ("a/ct.nii.gz", None, "Normal.", None), ("b/ct.nii.gz", None, "A cyst.", None)
    ]  # fmt: skip
    assert any("no column patient" in line for line in findings.warnings)
    with pytest.raises(InputError, match="holds 2 CSV files; name the one to read by --set table"):
        read_set(OWN, folder)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("image,report", "image,reports", r"column 'reports' is not known; did you mean 'report'\?"),
        ("image,report", "file,report", r"has no column 'image'"),
        ("f/ct.nii.gz", "g/ct.nii.gz", r"row 11, column image: no such file: \S+/g/ct.nii.gz"),
        ("f/organs.nii.gz#1", "f/organ.nii.gz#1", r"row 11, column mask: no such file: \S+/f/organ.nii.gz"),
        ("f/organs.nii.gz#1", "f/organs.nii.gz#one", r"row 11, column mask: 'one' behind # is no whole number"),
        (",E,train", ",E,training", r"row 11, column split: 'training' is not train, val or test"),
        (",E,train", ",B,train", r"row 11, column split: patient B is in train here, and in val in row 7"),
        ("Above.", "", r"row 10, column answer: is empty"),
        ("left;right;both", "left;both", r"row 4, column answer: 'right' is not one of the choices left, both"),
        ("left;right;both", "right", r"row 4, column choices: only one is given"),
        ("e/ct.nii.gz,,,,Where", "d/ct.nii.gz,,,,Where", r"row 10, column patient: an earlier row .* has another"),
        (
            "e/ct.nii.gz,,,,Where?,Above.,,D,train",
            "e/ct.nii.gz,A liver.,,,,,,D,train",
            r"row 10: is row 9 once more; remove one",
        ),
    ],
)
def test_a_fault_is_one_line_with_its_row(source, old, new, expected):
    rewrite(source[0], (old, new))
    problems = problems_of(OWN, source[0])
    assert sum(bool(re.search(expected, line)) for line in problems) == 1, problems


def test_all_faults_are_listed_at_once(source):
    rewrite(source[0], ("f/organs.nii.gz#1", "f/no.nii.gz"), ("Above.", ""), ("left;right;both", "right"))
    assert [re.search(r"row (\d+)", line)[1] for line in problems_of(OWN, source[0])] == ["4", "10", "11"]


def test_the_split_may_be_given_once_a_patient(source):
    rewrite(source[0], (",D,train\r\ne/ct", ",D,\r\ne/ct"))
    cases, findings = read_set(OWN, source[0])
    assert findings.problems == [] and {case.id: case.split for case in cases}["e/ct.nii.gz"] == "train"


def test_a_table_of_another_encoding_is_refused_with_its_row(source):
    rewrite(source[0], encoding="cp1252")
    (line,) = problems_of(OWN, source[0])
    assert "table.csv: row 2 is not UTF-8; save the table as UTF-8" in line
