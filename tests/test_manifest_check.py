"""The check before a run: every fault of every file at once, by headers; empty masks and unused values by voxels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.catalog import published_tasks
from datasets.manifest_check.__main__ import main
from datasets.manifest_check.check import ALL, check_manifests
from datasets.manifest_check.needs import instruction_source, sources_of, task_source
from datasets.vocabulary import diseases_of

SHAPE = (12, 10, 8)
CONFIDENCES = " ".join(["<disease_confidence>"] * 18)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    save(tmp_path / "ct.nii.gz", rng.integers(-900, 900, SHAPE).astype(np.int16))
    save(tmp_path / "labels.nii.gz", rng.integers(0, 3, SHAPE).astype(np.uint8))
    return tmp_path


def write(folder: Path, rows: object, name: str = "m.json") -> Path:
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def asked(labels: dict[str, int], mask_path: object = "labels.nii.gz", **more: object) -> dict:
    return {"question": "Where?", "image_path": "ct.nii.gz", "answer": " ".join(["<SEG>"] * len(labels)),
            "labels": list(labels), "mask_path": mask_path, "mask_values": labels, **more}  # fmt: skip


def plain(**more: object) -> dict:
    return {"question": "What?", "image_path": "ct.nii.gz", "answer": "Air.", **more}


def check(path: Path, **options: int):
    (report,) = check_manifests(sources_of(path), **options)
    return report


def test_all_faults_of_all_files_are_named_at_once_and_the_status_is_1(folder, capsys):
    whole = (folder / "ct.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.nii.gz").touch()
    save(folder / "far.nii.gz", np.ones(SHAPE, np.uint8), np.diag([1, 1, 1.2, 1]))
    rows = [
        plain(),
        plain(image_path="cut.nii.gz"),
        plain(image_path="empty.nii.gz"),
        plain(image_path="gone.nii.gz"),
        plain(target={}),
        asked({"liver": 1}, "far.nii.gz"),
        asked({"liver": 1}),
    ]
    one, other = write(folder, rows), write(folder, [{"image_path": "ct.nii.gz", "report": " "}], "reports.json")
    assert main([str(one), str(other), str(folder / "none.json")]) == 1
    said, error = capsys.readouterr()
    for row, reason in (
        (1, r"field image_path: .*cut.nii.gz: truncated"),
        (2, r"field image_path: .*empty.nii.gz: the file is empty"),
        (3, r"field image_path: no such file: .*gone.nii.gz"),
        (4, r"field target: is not a known field; did you mean 'targets'"),
        (5, r"field mask_path: .*far.nii.gz: not on the grid of .*spacing 1 x 1 x 1.2 mm"),
        (0, r"field report: is empty"),
    ):  # fmt: skip
        assert any(line.startswith(f"  fault: row {row}, ") and re.search(reason, line)
                   for line in said.splitlines()), reason  # fmt: skip
    assert "none.json: no such manifest" in said and "7 faults in 3 manifests" in error
    assert "2 records, 3 images, 2 masks" in said
    assert check(one).bad_rows == {1, 2, 3, 4, 5}


def test_good_manifests_have_no_fault(folder, capsys):
    slightly = np.eye(4)
    slightly[0, 3] = 0.3
    save(folder / "near.nii.gz", np.ones(SHAPE, np.uint8), slightly)
    path = write(folder, [plain(), asked({"a": 1, "b": 2}), asked({"c": 1}, ["near.nii.gz"])])
    assert main([str(path), "--check_voxels"]) == 0
    for option, value in (("--workers", "0"), ("--most", "-1")):
        assert main([str(path), option, value]) == 2
    report = check(path, voxels_of=ALL)
    assert report.off_grid == {str(folder / "near.nii.gz"): pytest.approx(0.3)} and not report.faults
    assert {label: (seen.looked_at, seen.empty) for label, seen in report.voxels.items()} == dict.fromkeys(
        "abc", (1, 0)
    )


def test_empty_masks_and_values_that_no_file_holds_are_named(folder):
    save(folder / "binary.nii.gz", np.full(SHAPE, 255, np.uint8))
    path = write(folder, [asked({"liver": 1, "spleen": 7}), asked({"lung": 1}, ["binary.nii.gz"]), asked({"liver": 2})])
    assert not check(path).notes, "headers alone do not tell"
    report = check(path, voxels_of=ALL)
    assert {label: (seen.looked_at, seen.empty) for label, seen in report.voxels.items()} == {
        "liver": (2, 0), "spleen": (1, 1), "lung": (1, 1)}  # fmt: skip
    assert [note.partition(":")[0] for note in report.notes] == ["'spleen'", "'lung'"]
    assert "value 7 of mask_values occurs in none, their files hold 1, 2" in report.notes[0]
    assert "value 1 of mask_values occurs in none, their files hold 255 (write 255" in report.notes[1]
    assert "3 of 4" not in report.counts and "2 of 4 masks looked at are empty" in report.counts


def test_a_manifest_whose_masks_are_all_empty_stops_though_few_are_looked_at(folder):
    save(folder / "binary.nii.gz", np.full(SHAPE, 255, np.uint8))
    rows = [asked({"liver": 1}, "binary.nii.gz", id=str(number)) for number in range(9)]
    report = check(write(folder, rows), voxels_of=2)
    assert report.unusable and "all 9 masks of its 9 records are empty; 'liver'" in report.unusable[0]
    good = check(write(folder, [*rows, asked({"liver": 1})]), voxels_of=2)
    assert not good.faults and good.voxels["liver"].empty < good.voxels["liver"].looked_at < 10


def test_records_without_targets_are_counted_and_all_of_a_manifest_stop(folder):
    diagnosis = plain(answer=CONFIDENCES, label_set="CT-RATE")
    known = {**diagnosis, "targets": {diseases_of("CT-RATE")[0]: 1}}
    assert check(write(folder, [diagnosis, known])).without_truth == 1
    assert not check(write(folder, [diagnosis, known])).faults
    assert "none of its 2 records that ask for classes" in check(write(folder, [diagnosis] * 2)).unusable[0]
    unknown = {"image_path": "ct.nii.gz", "disease_label": {"Emphysema": None}}
    assert check(write(folder, [unknown], "classes.json")).unusable


def test_a_manifest_named_after_a_task_is_held_against_its_labels(folder):
    row = {"image_path": "ct.nii.gz", "labels": ["liver", "pancraes"], "mask_path": "labels.nii.gz",
           "mask_values": {"liver": 1, "pancraes": 2}}  # fmt: skip
    (fault,) = check(write(folder, [row], "AbdomenCT1K_structure_segmentation_train.json")).lines
    assert "'pancraes' is not a label of this task" in fault
    assert not check(write(folder, [row], "mine.json")).faults
    task = next(task for task in published_tasks(folder) if task.name == "AbdomenCT1K_structure_segmentation")
    assert check_manifests([task_source(task, "train")])[0].lines == [fault]


def test_a_damaged_mask_is_a_fault_of_its_row_when_voxels_are_read(folder):
    soft = save(folder / "soft.nii.gz", np.linspace(0, 1, 960).reshape(SHAPE).astype(np.float32))
    report = check(write(folder, [asked({"a": 1}, soft), asked({"a": 1})]), voxels_of=ALL)
    assert report.bad_rows == {0} and report.records == 1 and "no whole numbers" in report.lines[0]


def test_headers_can_be_left_out(folder):
    (folder / "empty.nii.gz").touch()
    source = instruction_source(write(folder, [plain(image_path="empty.nii.gz")]))
    assert check_manifests([source])[0].faults and not check_manifests([source], headers=False)[0].faults
