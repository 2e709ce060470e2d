"""INSPECT and RP3D against replicas: every report, split and patient."""

from __future__ import annotations

import json
import re

import pytest

from datasets.errors import InputError
from datasets.prepare.sets import inspect, rp3d
from tests.replicas import report_sets
from tests.text_set_checks import assert_true, assert_voxels, problems_of, read_set

(INSPECT,), (RP3D,) = inspect.DATA_SETS, rp3d.DATA_SETS


@pytest.fixture
def angiograms(tmp_path):
    return tmp_path, report_sets.inspect(tmp_path)


@pytest.fixture
def articles(tmp_path):
    return tmp_path, report_sets.rp3d(tmp_path)


def test_every_impression_of_inspect_is_true(angiograms):
    folder, truth = angiograms
    cases, findings = read_set(INSPECT, folder)
    assert_true(cases, truth, findings)
    assert_voxels(cases, truth)
    assert findings.excluded == {"PE1003": "its impression is empty"}
    assert any("1 (PE1007) impressions are not here" in line for line in findings.warnings)


def test_without_further_tables_inspect_is_split_by_impression(angiograms):
    folder, _ = angiograms
    for name in ("study_mapping.csv", "splits.csv"):
        (folder / name).unlink()
    cases, findings = read_set(INSPECT, folder)
    assert {case.id: (case.patient, case.split) for case in cases} == {
        id: (id, None) for id in ("PE1001", "PE1002", "PE1005", "PE1006")
    }
    assert sum("person_id" in line or "split by the seed" in line for line in findings.warnings) == 2


def test_faults_of_inspect_are_listed_at_once(angiograms):
    folder, _ = angiograms
    splits = folder / "splits.csv"
    splits.write_text(splits.read_text().replace("PE1004,valid", "PE1004,dev"))
    table = folder / "Final_Impressions.csv"
    table.write_text(table.read_text(encoding="utf-8-sig") + "PE1001,Once more.\r\nPE1009\r\n", encoding="utf-8")
    problems = problems_of(INSPECT, folder)
    for pattern in (
        r"^\S+splits.csv: row \d+, column split: 'dev' is not one of",
        r"Final_Impressions.csv: row 9: PE1001 was already given by row 2",
        r"Final_Impressions.csv: row 10 has 1 fields, the header has 2",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 3


def test_every_text_of_rp3d_is_true_and_images_of_an_article_are_one_patients(articles):
    folder, truth = articles
    cases, findings = read_set(RP3D, folder)
    articles_of = {case.patient: truth.cases[case.id].patient for case in cases}
    assert len(set(articles_of.values())) == len(articles_of)
    for case in cases:
        truth.cases[case.id].patient = case.patient
        assert str(case.image).endswith("/".join(case.id.split("/")[-2:]))
    assert_true(cases, truth, findings)
    assert any("not public" in line for line in findings.warnings)
    assert any("case5/scan_0.npy" in line for line in findings.warnings)


@pytest.mark.parametrize("same", [{"articles": "", "title": "Case"}, {"articles": "An article.", "title": "Case"}])
def test_what_all_records_of_rp3d_say_is_no_patient(articles, same):
    """Else all training records would be left out for those of the test set."""
    folder, _ = articles
    for path in folder.glob("radiology_article_npy_*.json"):
        path.write_text(json.dumps([item | same for item in json.loads(path.read_text())]))
    cases, _ = read_set(RP3D, folder)
    assert len({case.patient for case in cases}) == len(cases) > 3


def test_a_table_of_inspect_without_its_text_is_one_problem(angiograms):
    table = angiograms[0] / "Final_Impressions.csv"
    table.write_text(table.read_text(encoding="utf-8-sig").replace("impressions", "text", 1), encoding="utf-8")
    (line,) = problems_of(INSPECT, angiograms[0])
    assert "has no column 'impressions'" in line


def test_the_text_of_rp3d_is_a_setting(articles):
    cases, findings = read_set(RP3D, articles[0], text="title")
    assert {case.report for case in cases} == {"Lung cyst", "Goitre", "Gallstone", "Abscess", "Haematoma"}
    assert not any("not public" in line for line in findings.warnings)
    with pytest.raises(InputError, match="--set text: 'titel' is not a field"):
        read_set(RP3D, articles[0], text="titel")


def test_faults_of_rp3d_are_listed_at_once(articles):
    folder, _ = articles
    path = folder / "radiology_article_npy_train.json"
    items = json.loads(path.read_text())
    items.append(items[0])
    (folder / "copy/case6").mkdir(parents=True)
    (folder / "copy/case6/scan_0.npy").write_bytes((folder / "images/case6/scan_0.npy").read_bytes())
    del items[1]["npy_path"]
    path.write_text(json.dumps(items))
    (folder / "radiology_article_npy_test.json").write_text('[{"npy_path": "/mnt')
    problems = problems_of(RP3D, folder)
    for pattern in (
        r"train.json: item 1 \(from 0\): has no npy_path",
        r"train.json: item 5 \(from 0\): \S+ is listed twice",
        r"/case6/scan_0.npy may be \S+/copy/\S+ or \S+/images/\S+; keep the folders of the index",
        r"test.json: is no JSON, or half of it",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 4
