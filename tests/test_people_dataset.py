"""A written folder of person phantoms: manifests that the project reads, tasks, reports, the same bytes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.catalog import load_records, phantom_tasks
from datasets.errors import InputError
from datasets.manifest import load_manifest
from datasets.phantom import __main__ as command
from datasets.phantom.people.dataset import PeopleOptions, main, report_of, write_people
from datasets.phantom.people.features import Features
from datasets.phantom.people.person import Person
from datasets.phantom.people.structures import STRUCTURES_FILE, UNIONS, VALUES, read_structures
from datasets.pretraining_records import SegmentationRecord

ALL = Features.of(["all"])
SIZE = 4e4  # voxels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people")
    write_people(PeopleOptions(out, count=4, seed=2, split=(0.5, 0.25, 0.25), features=ALL, max_voxels=SIZE))
    return out


def test_the_two_tasks_have_records_with_every_structure(folder: Path) -> None:
    tasks = phantom_tasks(folder)
    assert [task.name for task in tasks] == ["phantom_image_text", "phantom_segmentation"]
    assert tasks[1].labels == (*VALUES, *UNIONS)
    records = load_records(tasks, "train")
    assert len(records["phantom_image_text"]) == len(records["phantom_segmentation"]) >= 2
    record = records["phantom_segmentation"][0]
    assert isinstance(record, SegmentationRecord) and record.mask_values is not None
    labels = np.asarray(nib.load(str(record.mask_path)).dataobj)
    assert set(np.unique(labels)) <= {0, *VALUES.values()}
    assert record.mask_values["lungs"] == [VALUES["left lung"], VALUES["right lung"]]


def test_questions_ask_for_what_is_in_view(folder: Path) -> None:
    cases = {case["id"]: case for case in json.loads((folder / "cases.json").read_text())}
    records = load_manifest(folder / "train.json")
    assert records and all(record.patient_id in cases for record in records)
    for record in records:
        case = cases[record.patient_id]
        assert case["split"] == "train" and record.labels[0] in case["voxels"] and record.answer == "It is <SEG>."
        assert record.labels[0].lower() in record.text.lower()
    labels = np.asarray(nib.load(folder / cases[records[0].patient_id]["structures_path"]).dataobj)
    counted = {name: int((labels == value).sum()) for name, value in VALUES.items()}
    assert all(counted[name] == count for name, count in cases[records[0].patient_id]["voxels"].items())


def test_a_report_says_what_the_scan_shows() -> None:
    empty = np.zeros((1, 1, 1), np.int16)
    person = Person(empty, empty.astype(np.uint8), np.eye(4), "RAS", "abdomen", "portal", "raised")
    said = report_of(person, ["liver", "spleen"])
    assert said == (
        "CT of the abdomen in the portal-venous phase. In view: liver, spleen. The arms are raised. No finding."
    )


def test_the_same_options_give_the_same_bytes_and_case_i_does_not_depend_on_the_count(
    folder: Path, tmp_path: Path
) -> None:
    write_people(PeopleOptions(tmp_path, count=2, seed=2, split=(0.5, 0.25, 0.25), features=ALL, max_voxels=SIZE))
    for path in sorted((tmp_path / "volumes").iterdir()) + sorted((tmp_path / "masks").iterdir()):
        assert path.read_bytes() == (folder / path.parent.name / path.name).read_bytes()


def test_bad_options_and_folders_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--count", "0"], "--count must be at least 1"),
        (["--features", "legs"], "--features legs: choose from all"),
        (["--split", "0.5", "0.1", "0.1"], "three shares that sum to 1"),
        (["--max-voxels", "nan"], "--max-voxels nan"),
        (["--workers", "0"], "--workers 0"),
    ):
        assert main(["--out", str(tmp_path / "new"), *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file"), "--count", "1"]) == 2
    assert "Not a directory; give another path" in capsys.readouterr().err
    assert read_structures(tmp_path) is None
    (tmp_path / STRUCTURES_FILE).write_text("[]")
    with pytest.raises(InputError, match="does not name labels"):
        phantom_tasks(tmp_path)


def test_the_style_chooses_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[str]] = {}
    monkeypatch.setattr(
        command, "STYLES", {n: lambda rest, n=n: told.update({n: rest}) or 0 for n in ("chest", "people")}
    )
    for given in (["--out", "a"], ["--style", "people", "--out", "b", "--features", "pose"]):
        monkeypatch.setattr("sys.argv", ["phantom", *given])
        assert command.main() == 0
    assert told == {"chest": ["--out", "a"], "people": ["--out", "b", "--features", "pose"]}
