"""`python -m datasets.prepare` on a made-up data set: what it writes loads, twice the same, all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.catalog import load_records, published_tasks
from datasets.manifest import load_manifest
from datasets.mixture import load_mixture
from datasets.prepare import command, registry
from evaluation.answering.benchmarks import load_benchmark
from tests.toy_data_set import read_table, toy_set, write_table, write_toy

SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 3
PRETRAINING = ("RadGenome_disease_classification", "CTRATE_image_text", "AbdomenCT1K_structure_segmentation")


@pytest.fixture
def toys(monkeypatch):
    """Registers made-up data sets under their names."""

    def register(*data_sets):
        known = {data_set.name: data_set for data_set in data_sets}
        monkeypatch.setattr(command, "data_sets", lambda: known)
        monkeypatch.setattr(registry, "data_sets", lambda: known)

    register(toy_set())
    return register


def prepare(source: Path, out: Path, *options: str, name: str = "toy") -> int:
    return command.main([name, "--source", str(source), "--out", str(out), "--workers", "1", *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(out: Path, name: str = "toy") -> dict:
    return json.loads((out / name / "prepared.json").read_text())


def test_every_manifest_loads_and_holds_what_the_tables_say(toys, tmp_path):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    before = contents(source)
    assert prepare(source, out) == 0
    assert contents(source) == before, "nothing is written into the source"
    tasks = [task for task in published_tasks(out / "pretraining") if task.name in PRETRAINING]
    assert len(tasks) == 3
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for records in load_records(tasks, split).values():
            assert len(records) == count
    rows = read_table(source)
    classes = load_records(tasks[:1], "train")["RadGenome_disease_classification"]
    for found, row in zip(classes, rows, strict=False):
        assert found.patient_id == row[1] and Path(found.image_path).stem == f"{row[0]}.nii"
        assert [found.disease_label[name] for name in ("emphysema", "lung nodule", "cardiomegaly")] == [
            int(value) for value in row[3:6]
        ]
    text = load_records(tasks[1:2], "test")["CTRATE_image_text"]
    assert [found.report for found in text] == [row[6] for row in rows[8:]]
    records, weights = load_mixture([str(out / "instruction" / "mixture.json")])
    assert weights == {"CTRATE_Diagnosis": 0.1, "CTRATE_Question_Answer": 1.0, "AbdomenCT1K_Seg": 0.01}
    assert {found.patient_id for part in records.values() for found in part} == {f"p{n}" for n in range(6)}
    assert {found.patient_id for found in load_manifest(out / "instruction" / "CTRATE_Diagnosis_val.json")} == {
        "p6",
        "p7",
    }
    for name, count in (("CT-RATE-diagnosis", 3), ("CT-RATE-VQA", 3), ("AbdomenCT-1K", 3 + 2 + 3)):
        questions, _, _ = load_benchmark(name, out / "benchmarks")
        assert len(questions) == count
        assert {found.patient_id for found in questions} == {"p8", "p9", "p10"}


def test_structures_are_asked_for_where_they_are_and_once(toys, tmp_path):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    assert prepare(source, out) == 0
    questions, _, _ = load_benchmark("AbdomenCT-1K", out / "benchmarks")
    asked = Counter((found.patient_id, *found.labels) for found in questions)
    # patients 8 and 10 have three organs, patient 9 no spleen; nobody has a pancreas
    assert asked == Counter(
        [
            (p, organ)
            for p in ("p8", "p9", "p10")
            for organ in ("liver", "kidney", "spleen")
            if (p, organ) != ("p9", "spleen")
        ]
    )
    training = load_manifest(out / "instruction" / "AbdomenCT1K_Seg.json")
    for patient in range(6):
        labels = [label for found in training if found.patient_id == f"p{patient}" for label in found.labels]
        assert sorted(labels) == (["kidney", "liver", "spleen"] if patient % 2 == 0 else ["kidney", "liver"])
    for found in [*questions, *training]:
        mask = np.asarray(nib.load(found.mask_path).dataobj)
        for label in found.labels:
            assert (mask == found.mask_values[label]).sum() == mask[0].size


def test_a_second_run_changes_no_byte_and_another_seed_does(toys, tmp_path):
    source, out = write_toy(tmp_path / "toy", [""] * 20), tmp_path / "out"
    assert prepare(source, out) == 0
    first = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert prepare(source, out, "--workers", "2") == 0
    assert contents(out) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == times
    assert prepare(source, out, "--seed", "1") == 0
    assert contents(out) != first


def test_the_record_says_where_everything_came_from(toys, tmp_path):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    assert prepare(source, out) == 0
    found = record(out)
    assert found["source"] == str(source) and found["version"] == "v1"
    assert found["cases"] == {"train": 6, "val": 2, "test": 3}
    assert found["tables"] == {"cases.csv": hashlib.sha256((source / "cases.csv").read_bytes()).hexdigest()}
    absent = "no mask of the 11 cases that were looked at has a voxel of pancreas"
    assert found["warnings"] == ["the size of a nodule is not known", absent] and found["settings"] == {
        "nodule": "6 mm"
    }
    rows = read_table(source)[:6]
    assert found["labels"]["train"]["Emphysema"] == {
        "positive": sum(row[3] == "1" for row in rows),
        "negative": sum(row[3] == "0" for row in rows),
        "unknown": 0,
    }
    for path, digest in found["manifests"].items():
        assert hashlib.sha256((out / path).read_bytes()).hexdigest() == digest
        assert found["records"][path] == len(json.loads((out / path).read_text()))
    assert "p0" not in json.dumps(found["patients"]), "patients go by hashes"


def damage(source: Path) -> list[str]:
    """Five bad files; the words that name them."""
    images, labels = source / "images", source / "labels"
    (images / "p0_0.nii.gz").write_bytes((images / "p0_0.nii.gz").read_bytes()[:-200])
    (images / "p1_0.nii.gz").write_bytes(b"")
    (labels / "p2_0.nii.gz").unlink()
    (labels / "p3_0.nii.gz").write_bytes(b"<html>quota exceeded</html>")
    nib.save(nib.Nifti1Image(np.ones((12, 10, 7), np.uint8), np.diag([-0.8, -0.8, 2.0, 1.0])), labels / "p4_0.nii.gz")
    return [
        "images/p0_0.nii.gz: truncated",
        "images/p1_0.nii.gz: the file is empty",
        "labels/p2_0.nii.gz: no such file",
        "labels/p3_0.nii.gz: ",
        "labels/p4_0.nii.gz: not on the grid",
    ]


def test_with_bad_files_nothing_is_written_and_all_are_named(toys, tmp_path, capsys):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    expected = damage(source)
    for run in (lambda: prepare(source, out), lambda: command.main(["check", "toy", "--source", str(source)])):
        assert run() == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(expected)
        for line, words in zip(lines, expected, strict=True):
            assert line.startswith("problem: ") and words in line
        assert not out.exists()
    assert prepare(source, out, "--skip_bad") == 0
    assert sorted(record(out)["skipped"]) == [f"p{number}_0" for number in range(5)]
    assert record(out)["cases"] == {"train": 1, "val": 2, "test": 3}


def test_a_gzip_of_several_members_is_no_fault(toys, tmp_path):
    source = write_toy(tmp_path / "toy", SPLITS)
    path = source / "images" / "p0_0.nii.gz"
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    assert command.main(["check", "toy", "--source", str(source)]) == 0


def test_a_case_twice_and_one_without_anything(toys, tmp_path, capsys):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    rows = read_table(source)
    write_table(source, [*rows, rows[0]])
    assert prepare(source, out) == 1
    assert "its id p0_0 is that of" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["toi", "--source", "x", "--out", "y"], "'toi' is not a data set"),
        (["toy", "--out", "y"], "--source is needed"),
        (["toy", "--source", "nowhere", "--out", "y"], "no such folder"),
        (["toy", "--source", ".", "--out", "../y", "--set", "nodul=3"], "no setting of toy; it has nodule"),
        (["toy", "--source", ".", "--out", "../y", "--workers", "0"], "--workers 0: give 1 or more"),
        (["toy", "--source", ".", "--out", "../y", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["check"], "name the data set"),
        (["all", "--root", "nowhere", "--out", "y"], "no such folder"),
    ],
)
def test_wrong_options_are_one_line(toys, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_out_in_the_source_is_refused(toys, tmp_path, capsys):
    source = write_toy(tmp_path / "toy", SPLITS)
    assert prepare(source, source / "prepared") == 1
    assert "lies in the source" in capsys.readouterr().err


def test_two_sets_of_one_task(toys, tmp_path, capsys):
    first, second = toy_set(), toy_set("other", instruction=(), benchmarks=())
    toys(first, second)
    source, out = write_toy(tmp_path / "data" / "toy", SPLITS), tmp_path / "out"
    assert prepare(source, out) == 0
    before = contents(out)
    assert prepare(source, out, name="other") == 1
    assert "was made of toy before; give --replace" in capsys.readouterr().err
    assert contents(out) == before
    assert prepare(source, out, "--replace", name="other") == 0
    assert set(record(out, "other")["manifests"]) == {
        f"pretraining/{task}_{split}.json" for task in PRETRAINING for split in ("train", "val", "test")
    }
    assert not any(path.startswith("pretraining") for path in record(out)["manifests"])
    # of all that are found the earlier one in the registry makes the task, whoever made it before
    assert command.main(["all", "--root", str(tmp_path / "data"), "--out", str(out), "--workers", "1"]) == 0
    assert sum(path.startswith("pretraining") for path in record(out)["manifests"]) == 9
    assert record(out, "other")["manifests"] == {}
    after = contents(out)
    assert command.main(["all", "--root", str(tmp_path / "data"), "--out", str(out), "--workers", "1"]) == 0
    assert contents(out) == after


def test_held_out_cases_from_elsewhere_do_not_remove_the_others(toys, tmp_path, capsys):
    toys(toy_set())
    out = tmp_path / "out"
    assert prepare(write_toy(tmp_path / "toy", SPLITS), out) == 0
    before = contents(out)
    held_out = write_toy(tmp_path / "held_out", ["test"] * 3)
    assert prepare(held_out, out) == 1
    error = capsys.readouterr().err
    assert f"{held_out}: has no case for train and val, whose manifests were made of" in error
    assert "give another --out, or --replace" in error
    assert contents(out) == before
    assert prepare(held_out, tmp_path / "other") == 0
    assert prepare(held_out, out, "--replace") == 0
    assert record(out)["manifests"]
    assert all(path.endswith("_test.json") for path in record(out)["manifests"] if path.startswith("pretraining"))


def test_patients_of_a_pool_have_one_split(toys, tmp_path):
    tasks = {"instruction": (), "benchmarks": (), "patients": "shared"}
    toys(toy_set("one", pretraining=PRETRAINING[:1], **tasks), toy_set("two", pretraining=PRETRAINING[1:2], **tasks))
    out = tmp_path / "out"
    assert prepare(write_toy(tmp_path / "one", ["test", "train", "train", "val"]), out, name="one") == 0
    assert prepare(write_toy(tmp_path / "two", ["train", "train", "", "", ""]), out, name="two") == 0
    assert record(out, "two")["excluded"] == {"patient is in test of one": 1}
    split_of = {patient: split for split, patients in record(out, "one")["patients"].items() for patient in patients}
    for split, patients in record(out, "two")["patients"].items():
        for patient in patients:
            assert split_of.get(patient, split) == split


def test_list_names_what_is_found_two_levels_down(toys, tmp_path, capsys):
    source = write_toy(tmp_path / "a" / "b", SPLITS)
    assert command.main(["list", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert str(source) in printed
    assert "pretraining: 3 of 39 tasks can be prepared, 3 from what was found" in printed
    assert command.main(["list", "--root", str(tmp_path / "a" / "b" / "images")]) == 0
    assert "3 of 39 tasks can be prepared, 0 from what was found" in capsys.readouterr().out


def test_check_prints_the_share_of_positives_beside_the_published(toys, tmp_path, capsys):
    source = write_toy(tmp_path / "toy", SPLITS)
    assert command.main(["check", "toy", "--source", str(source)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "Cardiomegaly" in line)
    # patients 0 and 4 of six; the published positive weight of 8.33 is 1 / 9.33 of positives
    assert "0.333" in line and "0.107" in line


def test_sat_ds_splits_are_taken_where_they_are_asked_for(toys, tmp_path, capsys):
    source, out = write_toy(tmp_path / "toy", SPLITS), tmp_path / "out"
    options = ("--split", "sat_ds", "--sat_ds_splits", str(tmp_path / "splits"))
    assert prepare(source, out, *options) == 1
    assert "splits: no such folder" in capsys.readouterr().err
    (tmp_path / "splits").mkdir()
    ids = {"train": ["p8_0.nii.gz", "p9_0.nii.gz", "p10_0.nii.gz"], "test": ["p0_0", "p1_0"]}
    (tmp_path / "splits" / "AbdomenCT1K.json").write_text(json.dumps(ids))
    assert prepare(source, out, *options) == 0
    found = record(out)
    assert found["cases"] == {"train": 2, "val": 1, "test": 2}
    assert found["excluded"] == {"not in SAT-DS's split (AbdomenCT1K.json)": 6}
    questions, _, _ = load_benchmark("AbdomenCT-1K", out / "benchmarks")
    assert {question.patient_id for question in questions} == {"p0", "p1"}
