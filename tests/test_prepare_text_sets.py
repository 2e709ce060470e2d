"""The whole command on every replica with labels, reports and questions: what the loaders read is the truth."""

from __future__ import annotations

from collections import Counter

import pytest

from datasets.catalog import load_records, published_tasks
from datasets.manifest import load_manifest
from datasets.prepare.command import main
from datasets.prepare.registry import find_data_set
from datasets.vocabulary import diseases_of
from datasets.volume.images import load_image
from datasets.volume.loading import load_volume
from tests.replicas import TEXT

SETS = [name for name in TEXT if name != "own"]
SOURCES = {"radgenome": "RadGenome"}
# A benchmark's records of one case: all confidences, one report, or every question.
LABEL_SETS = {"RadChestCT": "RadChestCT", "CT-RATE-diagnosis": "CT-RATE"}


@pytest.fixture(params=SETS)
def prepared(request, tmp_path):
    name = request.param
    (tmp_path / "source").mkdir()
    truth = TEXT[name](tmp_path / "source")
    source = tmp_path / "source" / SOURCES.get(name, "")
    data_set = find_data_set(name.partition("@")[0])
    arguments = [data_set.name, "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(arguments) == 0
    return data_set, truth, tmp_path / "out", arguments


def contents(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def classes_as_loaded(task, classes):
    if task.loss == "CE":
        return classes
    by_case = {label.lower(): value for label, value in classes.items()}
    return {label: by_case[label.lower()] for label in task.labels}


def test_what_the_loaders_read_is_the_truth(prepared):
    data_set, truth, out, arguments = prepared
    tasks = [task for task in published_tasks(out / "pretraining") if task.name in data_set.pretraining]
    assert len(tasks) == len(data_set.pretraining)
    for task in tasks:
        found = Counter()
        for split in ("train", "val", "test"):
            for row in load_records([task], split)[task.name] if task.path(split).is_file() else ():
                found[str(getattr(row, "report", None) or row.disease_label)] += 1
                (load_image if task.is_2d else load_volume)(row.image_path)
        if task.kind == "image_text":
            assert found == Counter(case.report for case in truth.cases.values() if case.report)
        else:
            assert found == Counter(str(classes_as_loaded(task, case.classes)) for case in truth.cases.values())

    before = contents(out)
    assert main(arguments) == 0
    assert contents(out) == before


def test_benchmarks_hold_the_official_test_set(prepared):
    data_set, truth, out, _ = prepared
    test = {id: case for id, case in truth.cases.items() if case.split == "test"}
    for name in data_set.benchmarks:
        records = load_manifest(out / "benchmarks" / f"{name}.json")
        assert {row.patient_id for row in records} <= {case.patient for case in test.values()}
        if name in LABEL_SETS:
            order = diseases_of(LABEL_SETS[name])
            wanted = [[float(case.classes[label]) for label in order] for case in test.values()]
            assert [row.target_vector() for row in records] == wanted
        elif name == "M3D-Cap":
            assert [row.answer for row in records] == [case.report for case in test.values()]
        else:
            asked = [question for case in test.values() for question in case.questions]
            assert [(row.text, row.answer) for row in records] == asked


def test_no_patient_is_in_two_splits(prepared):
    data_set, _, out, _ = prepared
    splits: dict[str, set[str]] = {}
    for task in published_tasks(out / "pretraining"):
        for split in ("train", "val", "test"):
            if task.path(split).is_file():
                for row in load_records([task], split)[task.name]:
                    splits.setdefault(row.patient_id, set()).add(split)
    for name in data_set.instruction:
        for split, ending in (("train", ""), ("val", "_val")):
            path = out / "instruction" / f"{name}{ending}.json"
            for row in load_manifest(path) if path.is_file() else ():
                splits.setdefault(row.patient_id, set()).add(split)
    assert splits and all(len(found) == 1 for found in splits.values())
