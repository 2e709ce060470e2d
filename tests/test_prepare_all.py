"""Miniatures of every data set, prepared by one command: all tasks and benchmarks, twice the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.catalog import available_tasks, load_records, published_tasks
from datasets.manifest import load_manifest
from datasets.mixture import load_mixture, published_weights
from datasets.prepare.command import main
from datasets.prepare.registry import data_sets
from evaluation.answering.benchmarks import benchmark_names, load_benchmark
from tests.replicas import REPLICAS


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folders of the downloads and of the manifests, and what the command printed and returned."""
    root, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("prepared") / "out"
    for name, write in REPLICAS.items():
        if "@" not in name:
            (root / name).mkdir()
            write(root / name)
    before = contents(root)
    assert main(["all", "--root", str(root), "--out", str(out), "--workers", "1"]) == 0
    assert contents(root) == before
    return root, out


def test_every_pretraining_task_loads(prepared):
    _, out = prepared
    tasks = published_tasks(out / "pretraining")
    found, missing = available_tasks(tasks)
    assert len(found) == 39 and not missing
    for name, records in load_records(found).items():
        assert records, name
    for split in ("val", "test"):
        there, _ = available_tasks(tasks, skip_missing=True, split=split)
        assert all(load_records(there, split).values())


def test_the_published_mixture_loads(prepared):
    _, out = prepared
    records, weights = load_mixture([str(out / "instruction" / "mixture.json")])
    assert weights == published_weights()
    assert all(records.values())


def test_every_benchmark_loads(prepared):
    _, out = prepared
    for name in benchmark_names():
        records, _, _ = load_benchmark(name, out / "benchmarks")
        assert records, name


def test_nobody_is_trained_and_tested(prepared):
    _, out = prepared
    known = data_sets()
    splits: dict[tuple[str, str], set[str]] = {}
    for path in out.glob("*/prepared.json"):
        record = json.loads(path.read_text())
        assert record["pool"] == known[record["data_set"]].pool
        for split, patients in record["patients"].items():
            for patient in patients:
                splits.setdefault((record["pool"], patient), set()).add(split)
    assert splits and all(len(found) == 1 for found in splits.values())
    for benchmark, task in (("RadChestCT", "RadChest_Binary_Diagnosis"), ("CT-RATE-VQA", "CTRATE_Question_Answer")):
        tested = {record.image_path[0] for record in load_manifest(out / "benchmarks" / f"{benchmark}.json")}
        trained = {record.image_path[0] for record in load_manifest(out / "instruction" / f"{task}.json")}
        assert tested and trained and not tested & trained


def test_each_manifest_was_made_of_one_data_set(prepared):
    _, out = prepared
    made: dict[str, str] = {}
    for path in out.glob("*/prepared.json"):
        record = json.loads(path.read_text())
        for manifest in record["manifests"]:
            assert manifest not in made
            made[manifest] = record["data_set"]
    written = {str(path.relative_to(out)) for path in out.rglob("*.json") if path.parent.parent == out}
    written = {path for path in written if path.startswith(("pretraining/", "instruction/", "benchmarks/"))}
    assert written == set(made) | {"instruction/mixture.json"}
    assert "sat_ds" not in made.values(), "the data sets themselves come first"


def test_a_second_run_changes_no_byte(prepared, capsys):
    root, out = prepared
    before = contents(out)
    assert main(["all", "--root", str(root), "--out", str(out), "--workers", "1"]) == 0
    assert contents(out) == before
    assert "│ written" not in capsys.readouterr().out


def test_list_finds_all(prepared, capsys):
    root, _ = prepared
    assert main(["list", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    for line in (
        "pretraining: 39 of 39 tasks can be prepared, 39 from what was found",
        "tuning: 8 of 8 tasks can be prepared, 8 from what was found",
        "benchmark: 8 of 8 tasks can be prepared, 8 from what was found",
    ):
        assert line in printed
    assert "NOTHING" not in printed
