"""Sets of slices against replicas, and UCSD's as it is: the class, the split and the patient of every slice."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.prepare.sets import cc_ccii, images_2d, radimagenet
from datasets.volume.images import load_image
from datasets.volume.loading import load_volume
from tests.replicas import slice_sets
from tests.shared_data import shared_path
from tests.text_set_checks import assert_true, problems_of, read_set

SARS_COV, UCSD = images_2d.DATA_SETS
(RADIMAGENET,), (CC_CCII,) = radimagenet.DATA_SETS, cc_ccii.DATA_SETS
SETS = {"sars_cov": SARS_COV, "ucsd_covid_ct": UCSD, "ucsd_covid_ct@plain": UCSD, "radimagenet": RADIMAGENET,
        "cc_ccii": CC_CCII}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_every_class_split_and_patient_is_true(name, tmp_path):
    truth = slice_sets.REPLICAS[name](tmp_path)
    cases, findings = read_set(SETS[name], tmp_path)
    assert_true(cases, truth, findings)
    for case in cases:
        load_volume(case.image) if case.image.is_dir() else load_image(case.image)


@pytest.mark.parametrize("name", SETS)
def test_an_empty_folder_is_a_problem(name, tmp_path):
    assert problems_of(SETS[name], tmp_path)


def test_a_part_of_sars_cov_is_told_by_the_published_counts(tmp_path):
    slice_sets.sars_cov(tmp_path)
    _, findings = read_set(SARS_COV, tmp_path)
    assert sum("holds 6 slices, published are 1,2" in line for line in findings.warnings) == 2


def test_real_slices_of_ucsd():
    """425 slices of training and 118 of validation, as the official lists have them; each is read."""
    folder = shared_path("data", "covid_ct")
    cases, findings = read_set(UCSD, folder)
    assert findings.problems == []
    counts = {(case.split, case.classes): 0 for case in cases}
    for case in cases:
        counts[case.split, case.classes] += 1
    assert counts == {
        ("train", "affected COVID"): 191, ("val", "affected COVID"): 60,
        ("train", "not affected COVID"): 234, ("val", "not affected COVID"): 58,
    }  # fmt: skip
    assert all(f"CT_{'NonCOVID' if 'not' in case.classes else 'COVID'}" == case.image.parent.name for case in cases)
    splits = {}
    for case in cases:
        splits.setdefault(case.patient, set()).add(case.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sum("testCT_" in line and "missing" in line for line in findings.warnings) == 2
    load_image(cases[0].image)


def test_faults_of_ucsd_are_listed_at_once(tmp_path):
    slice_sets.ucsd_covid_ct(tmp_path)
    lists = tmp_path / "Data-split/COVID"
    (lists / "trainCT_COVID.txt").write_text("2020.03.13.20035212-p23-155.png\nnowhere.png\n")
    (tmp_path / "Data-split/NonCOVID/valCT_NonCOVID.txt").unlink()
    images = tmp_path / "Images-processed/CT_NonCOVID"
    images.rename(images.with_name("moved"))
    images.with_suffix(".zip").write_bytes(b"PK")
    problems = problems_of(UCSD, tmp_path)
    for pattern in (
        r"trainCT_COVID.txt: row 2: nowhere.png is not in",
        r"valCT_COVID.txt: row 1: 2020.03.13.20035212-p23-155.png was already listed in train",
        r"valCT_NonCOVID.txt: is missing",
        r"CT_NonCOVID: is missing; unpack CT_NonCOVID.zip",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 4


def test_the_34_labels_are_each_found_by_the_words_of_a_folder():
    labels = radimagenet.task_labels()
    assert len(labels) == 34
    for label in labels:
        words, _, region = label.partition(" in the ")
        folder = {"abdomen": "abd", "lung": "lung"}[region]
        assert radimagenet.label_of(folder, words.replace(" ", "_"), labels, {}) == label
        assert radimagenet.label_of(folder, words.title().replace(" ", "-"), labels, {}) == label


def test_unknown_folders_of_radimagenet_are_counted_and_can_be_named(tmp_path):
    truth = slice_sets.radimagenet(tmp_path)
    _, findings = read_set(RADIMAGENET, tmp_path)
    assert any("2 slices in folders that name no label" in line and "abd/spleen_lesion (2)" in line
               for line in findings.warnings)  # fmt: skip
    named = "abd/spleen_lesion=splenic lesion in the abdomen"
    cases, findings = read_set(RADIMAGENET, tmp_path, folders=named)
    assert sum(case.classes == "splenic lesion in the abdomen" for case in cases) == 2
    assert len(cases) == len(truth.cases) + 2
    with pytest.raises(InputError, match=r"'spleen lesion in the abdomen' is not a label .* did you mean 'splenic"):
        read_set(RADIMAGENET, tmp_path, folders="abd/x=spleen lesion in the abdomen")


def test_without_tables_radimagenet_is_split_by_the_seed(tmp_path):
    slice_sets.radimagenet(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    cases, findings = read_set(RADIMAGENET, tmp_path)
    assert {case.split for case in cases} == {None}
    assert any("the seed splits" in line for line in findings.warnings)


def test_a_slice_in_two_tables_is_a_problem(tmp_path):
    slice_sets.radimagenet(tmp_path)
    train, val = (tmp_path / f"RadiologyAI_{split}.csv" for split in ("train", "val"))
    val.write_text(val.read_text() + train.read_text().splitlines()[1] + "\n")
    (line,) = problems_of(RADIMAGENET, tmp_path)
    assert re.search(r"RadiologyAI_val.csv: row \d+: radiology_ai/CT/lung/normal/\S+ is in train already", line)


def test_scans_of_cc_ccii_are_volumes_of_their_slices(tmp_path):
    slice_sets.cc_ccii(tmp_path)
    cases, findings = read_set(CC_CCII, tmp_path)
    by_id = {case.id: case for case in cases}
    array, _ = load_volume(by_id["NCP/2/1003"].image)
    with Image.open(tmp_path / "NCP/2/1003/0000.png") as image:
        columns, rows = image.size
    assert array.shape == (1, columns, rows, 12)
    assert any("1 (CP/8/3002) scans hold slices that the cleaned lists leave out" in line for line in findings.warnings)


def test_faults_of_cc_ccii_are_listed_at_once(tmp_path):
    slice_sets.cc_ccii(tmp_path)
    (tmp_path / "NCP/1/1001/0002.png").unlink()
    path = tmp_path / "ct_test.json"
    path.write_text(path.read_text().replace('"4002"', '"4002x"').replace('"NCP"', '"COVID"'))
    _, findings = read_set(CC_CCII, tmp_path)
    assert [line.removeprefix(f"{tmp_path}/") for line in findings.problems] == [
        "ct_test.json: class 'COVID' of 1 scans is not one of NCP, CP, Normal; download it again",
        "NCP/1/1001: 1 (0002) slices of the list are missing; download it again",
    ]
    assert findings.excluded["Normal/21/4002"] == "is not in the cleaned lists"
    assert any("Normal/21/4002x" in line for line in findings.warnings)


def test_without_lists_all_scans_are_taken(tmp_path):
    slice_sets.cc_ccii(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    cases, findings = read_set(CC_CCII, tmp_path)
    assert sorted(case.id for case in cases) == sorted(slice_sets.CC_CCII)
    assert {case.split for case in cases} == {None} and findings.problems == []


def test_ucsd_may_have_its_test_lists_alone(tmp_path):
    truth = slice_sets.ucsd_covid_ct(tmp_path)
    for path in (tmp_path / "Data-split").rglob("*.txt"):
        if not path.name.startswith("test"):
            path.unlink()
    cases, findings = read_set(UCSD, tmp_path)
    assert findings.problems == [] and {case.split for case in cases} == {"test"}
    assert {case.id for case in cases} == {name for name, case in truth.cases.items() if case.split == "test"}
    assert sum("is missing" in line for line in findings.warnings) == 4
    (tmp_path / "Data-split/NonCOVID/trainCT_NonCOVID.txt").write_text("")
    missing = [line for line in problems_of(UCSD, tmp_path) if "is missing" in line]
    assert len(missing) == 3, "of one class's lists others are expected, or that class has no training slices"
