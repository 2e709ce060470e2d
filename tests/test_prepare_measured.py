"""Measured questions from a folder like OpenKBP's to the manifests that tuning and evaluation read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.manifest import InstructionRecord, load_manifest
from datasets.prepare.command import main
from datasets.prepare.measured_questions import kind_of
from datasets.prepare.sets.open_kbp import ORGANS as NAMES
from datasets.record_masks import read_source
from datasets.volume.loading import read_volume
from tests.head_neck_body import ORGANS, VALUES, write_case

LEFT_PAROTID = [20.5, 38.0, 20.0]  # in stored voxels


def write_source(folder: Path, **patients: list[str]) -> Path:
    """Patients by part (train, validation, test); files lie in a folder of the part's name, as in the test set."""
    spelled = {label: name for name, label in NAMES.items()}
    listed: dict = {"mask_values": {spelled[label]: value for label, value in VALUES.items()}}
    for part, names in patients.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        listed[part] = []
        for name in names:
            write_case(folder / part, name=name)
            listed[part].append(
                {
                    "patient": name,
                    "image": f"{part}/{name}.nii.gz",
                    "organs_mask": f"{part}/{name}_organs.nii.gz",
                    "organs": [spelled[label] for label in ORGANS],
                    "targets": {"PTV70": {"voxels": 100, "centroid_voxel": LEFT_PAROTID}},
                }
            )
    (folder / "patients.json").write_text(json.dumps(listed))
    return folder


def prepare(source: Path, out: Path, *more: str) -> int:
    return main(["open_kbp", "--source", str(source), "--out", str(out), "--workers", "1", *more])


def read(out: Path, split: str) -> list[InstructionRecord]:
    return load_manifest(out / "instruction" / f"open_kbp_{split}.json")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("kbp")
    source = write_source(folder / "source", train=["pt_1", "pt_2"], validation=["pt_3"], test=["pt_4"])
    assert prepare(source, folder / "out") == 0
    return source, folder / "out"


def test_each_split_has_its_patients_and_every_kind(prepared):
    kinds = {"segmentation", "outside_the_scan", "target_side", "reaches_level", "reaches_lower", "volume",
             "lung_apices", "dental_metal"}  # fmt: skip
    for split, patients in (("train", {"pt_1", "pt_2"}), ("val", {"pt_3"}), ("test", {"pt_4"})):
        records = read(prepared[1], split)
        assert {record.patient_id for record in records} == patients
        assert kinds <= {kind_of(record.id) for record in records}
    assert not (prepared[1] / "instruction" / "mixture.json").exists(), "it has the published tasks alone"


def test_masks_and_words_are_those_of_the_body(prepared):
    for record in read(prepared[1], "test"):
        if record.labels:
            _, geometry = read_volume(record.image_path[0])
            for number, label in enumerate(record.labels):
                sizes = [last - first for first, last in ORGANS[label]]
                assert read_source(record.mask_source(number), geometry).sum() == sizes[0] * sizes[1] * sizes[2]
        elif kind_of(record.id) == "target_side":
            assert record.task == "multiple_choice" and record.answer == "Left."
        elif kind_of(record.id) == "outside_the_scan":
            assert record.task == "segmentation" and record.mask_path is None


def test_others_keep_their_questions_when_patients_are_added(prepared, tmp_path):
    source = write_source(tmp_path / "source", train=["pt_0", "pt_1", "pt_2"], validation=["pt_3"])
    assert prepare(source, tmp_path / "out") == 0
    before = {record.id: record.text for record in read(prepared[1], "train")}
    after = {record.id: record.text for record in read(tmp_path / "out", "train")}
    assert before.items() <= after.items() and len(after) > len(before)
    assert not (tmp_path / "out" / "instruction" / "open_kbp_test.json").exists()
    assert prepare(source, tmp_path / "other", "--seed", "1") == 0
    assert {record.id: record.text for record in read(tmp_path / "other", "train")} != after


def test_what_cannot_be_measured_is_one_line(tmp_path, capsys):
    source = write_source(tmp_path / "source", train=["pt_1", "pt_2"], validation=["pt_3"])
    listed = json.loads((source / "patients.json").read_text())
    listed["train"][1]["targets"]["PTV70"]["centroid_voxel"] = [1, 2]
    (source / "patients.json").write_text(json.dumps(listed))
    assert prepare(source, tmp_path / "out") == 1
    assert "train, item 1 (from 0), field targets: PTV70: centroid_voxel must be three" in capsys.readouterr().err
    listed["train"][1]["targets"] = {}
    write_case(source / "train", name="pt_2", organs={label: ORGANS[label] for label in ("mandible", "larynx")})
    (source / "patients.json").write_text(json.dumps(listed))
    assert prepare(source, tmp_path / "out") == 1
    assert "pt_2_organs.nii.gz: no voxel of brainstem, which patients.json lists" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert prepare(source, tmp_path / "out", "--skip_bad") == 0
    assert {record.patient_id for record in read(tmp_path / "out", "train")} == {"pt_1"}


@pytest.mark.parametrize(("record_id", "kind"), [("pt_1/volume_3", "volume"), ("a/b/reaches_level_10", "reaches_level"),
                                                 ("case/3", ""), ("phantom_2_yes_no_1", ""), ("", "")])  # fmt: skip
def test_an_id_tells_the_kind(record_id: str, kind: str):
    assert kind_of(record_id) == kind
