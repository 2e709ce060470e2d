"""Own data from the table to both stages: the manifests that the command writes are what the loaders read."""

from __future__ import annotations

import json

import pytest

from datasets.catalog import OTHER_TASKS, load_records, other_tasks, published_tasks
from datasets.manifest import load_manifest
from datasets.prepare.command import main
from datasets.prepare.sets import open_kbp, own
from tests.replicas import own_data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    truth = own_data.own(folder / "source")
    assert (
        main(["own", "--source", str(folder / "source/table.csv"), "--out", str(folder / "out"), "--workers", "1"]) == 0
    )
    return folder / "out", truth


def test_the_catalog_names_every_further_task():
    made = {name for module in (own, open_kbp) for data_set in module.DATA_SETS for name in data_set.pretraining}
    assert made == set(OTHER_TASKS) and not made & {task.name for task in published_tasks()}


def test_pretraining_finds_the_tasks_with_the_labels_of_their_manifests(prepared):
    out, truth = prepared
    tasks = {task.name: task for task in other_tasks(out / "pretraining")}
    assert list(tasks) == ["own_image_text", "own_classification", "own_segmentation"]
    assert set(tasks["own_classification"].labels) == set(own_data.LABELS)
    assert set(tasks["own_segmentation"].labels) == {"liver", "kidney", "spleen"}
    assert not any(task.is_2d for task in tasks.values())
    records = load_records(list(tasks.values()))
    train = [case for case in truth.cases.values() if case.split == "train"]
    assert {row.report for row in records["own_image_text"]} == {case.report for case in train if case.report}
    classes = [dict(row.disease_label) for row in records["own_classification"]]
    assert classes == [dict(case.classes) for case in train if case.classes is not None]
    assert sum(len(row.labels) for row in records["own_segmentation"]) == sum(len(case.masks) for case in train)
    assert other_tasks(out / "instruction") == []


def test_tuning_reads_every_manifest(prepared):
    out, truth = prepared
    names = {path.stem for path in (out / "instruction").glob("own_*.json")}
    assert {"own_Caption", "own_Diagnosis", "own_Question_Answer", "own_Seg"} <= names
    for name in names:
        assert load_manifest(out / "instruction" / f"{name}.json")
    asked = json.loads((out / "instruction/own_Question_Answer.json").read_text())
    questions = [question for case in truth.cases.values() if case.split == "train" for question in case.questions]
    texts = [row["question"][1]["text"] for row in asked]
    assert all(any(text.startswith(question) for text in texts) for question, _ in questions)
