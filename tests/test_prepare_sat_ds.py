"""SAT-DS's JSON lines: prepared crops as the project's loader reads them, and downloads; against what was put in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.catalog import published_tasks
from datasets.manifest import load_manifest
from datasets.prepare.case import Case, Findings
from datasets.prepare.command import main
from datasets.prepare.scan import scan_case
from datasets.prepare.sets.sat_ds import SAT_DS
from datasets.pretraining_manifest import read_record
from datasets.pretraining_records import SegmentationRecord
from datasets.record_masks import read_source
from datasets.volume.loading import read_mask, read_volume
from datasets.volume.preprocessed_crops import crop_masks, load_crop
from tests.replicas.sat_ds import sat_ds, sat_ds_downloads, write_lines


def read(folder: Path, **settings: str) -> tuple[dict[str, Case], Findings]:
    findings = Findings()
    return {case.id: case for case in SAT_DS.read(folder, settings, findings)}, findings


def test_prepared_lines_are_records_with_the_masks_of_the_truth(tmp_path: Path) -> None:
    truth = sat_ds(tmp_path)
    cases, findings = read(tmp_path)
    assert findings.problems == []
    assert sorted(cases) == sorted(truth.cases)
    assert sorted(findings.excluded) == sorted(truth.excluded)
    assert findings.facts == {"data sets of no task": {"ACDC": 1}}
    labels = {task.name: task.labels for task in published_tasks()}
    for id, expected in truth.cases.items():
        case = cases[id]
        assert (case.patient, case.split) == (expected.patient, expected.split)
        assert case.record is not None
        record, complaints = read_record(
            case.record, "segmentation", Path("/"), labels.get(case.tasks[0], tuple(expected.masks))
        )
        assert complaints == []
        assert isinstance(record, SegmentationRecord)
        assert record.names == list(expected.masks)
        crop, geometry = load_crop(record.image_path)
        assert crop.shape == record.chwd
        for name, mask in zip(
            record.names, crop_masks(record.mask_folder or "", record.labels, record.boxes, geometry), strict=True
        ):
            np.testing.assert_array_equal(mask, expected.masks[name], err_msg=f"{id} {name}")


def test_prepared_lines_become_questions_of_benchmarks(tmp_path: Path) -> None:
    truth = sat_ds(tmp_path / "source")
    assert main(["sat_ds", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]) == 0
    records = load_manifest(tmp_path / "out/benchmarks/TotalSegmentator.json")
    asked = set()
    for record in records:
        geometry = load_crop(record.image_path[0])[1]
        for number, label in enumerate(record.labels):
            name = Path(record.image_path[0]).stem
            expected = truth.cases[f"TotalSegmentator_Organs/data/npy/TotalSegmentator_Organs/image/{name}"].masks
            asked.add((name, label))
            np.testing.assert_array_equal(read_source(record.mask_source(number), geometry) > 0, expected[label])
    present = {("totalsegmentator_organs_1", "spleen"), ("totalsegmentator_organs_1", "left kidney")}
    present |= {("totalsegmentator_organs_3", label) for label in ("spleen", "liver", "left kidney")}
    assert asked == present


def test_lines_of_downloads_have_the_values_of_their_data_set(tmp_path: Path) -> None:
    truth = sat_ds_downloads(tmp_path)
    cases, findings = read(tmp_path)
    assert findings.problems == []
    assert sorted(findings.excluded) == sorted(truth.excluded)
    assert sorted(cases) == sorted(truth.cases)
    for id, expected in truth.cases.items():
        geometry = read_volume(cases[id].image)[1]
        assert cases[id].patient == expected.patient
        assert set(cases[id].masks) == set(expected.masks)
        for label, mask in cases[id].masks.items():
            (found,) = read_mask(mask.files[0], geometry, [list(mask.values or ())])
            np.testing.assert_array_equal(found, expected.masks[label])


def test_pet_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    sat_ds(tmp_path)
    cases, findings = read(tmp_path, pet="yes")
    assert findings.excluded == {}
    assert "autoPET/data/npy/autoPET/image/PETCT_1" in cases


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label": []}, "line 1: has no label"),
        ({"dataset": ""}, "line 1: has no dataset"),
        ({"label": ["unheard of"]}, "none of its labels is one of BTCV_structure_segmentation"),
        ({"renorm_image": "data/npy/BTCV/image/gone.npy"}, "no such image"),
        ({"renorm_segmentation_dir": "data/npy/BTCV/mask/gone"}, "no such mask"),
        ({"renorm_y1x1z1_y2x2z2": [False, False, False]}, "renorm_y1x1z1_y2x2z2 does not fit its labels"),
    ],
)
def test_a_bad_line_is_one_problem_and_the_others_are_read(change: dict, complaint: str, tmp_path: Path) -> None:
    sat_ds(tmp_path)
    place = tmp_path / "data/jsonl/BTCV.jsonl"
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    write_lines(tmp_path, "BTCV", [{**lines[0], **change}, *lines[1:]])
    cases, findings = read(tmp_path)
    assert len(findings.problems) == 1
    assert str(place) in findings.problems[0] and complaint in findings.problems[0]
    assert sum(id.startswith("BTCV/") for id in cases) == 3


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"official_split": "trane"}, "BTCV: official_split 'trane' is not one of train, val, validation, test"),
        ({"patient_id": "", "sample_id": ""}, "BTCV: lines without patient_id"),
    ],
)
def test_what_a_line_does_not_tell_is_a_warning(change: dict, warning: str, tmp_path: Path) -> None:
    sat_ds(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "data/jsonl/BTCV.jsonl").read_text().splitlines()]
    write_lines(tmp_path, "BTCV", [{**line, **change} for line in lines])
    cases, findings = read(tmp_path)
    assert findings.problems == [] and sum(warning in line for line in findings.warnings) == 1
    assert sum(id.startswith("BTCV/") for id in cases) == 4


def test_a_crop_of_another_shape_than_its_line_says_is_a_fault(tmp_path: Path) -> None:
    sat_ds(tmp_path)
    cases, _ = read(tmp_path)
    case = next(case for id, case in cases.items() if id.startswith("BTCV/"))
    assert scan_case(case).faults == ()
    record = {**case.record, "chwd": [1, 2, 3, 4]}
    (fault,) = scan_case(replace(case, record=record)).faults
    assert str(case.image) in fault and "but its chwd is [1, 2, 3, 4]" in fault


def test_a_cut_line_and_a_folder_without_lines_are_problems(tmp_path: Path) -> None:
    assert "no *.jsonl" in read(tmp_path)[1].problems[0]
    sat_ds(tmp_path)
    place = tmp_path / "data/jsonl/BTCV.jsonl"
    place.write_text(place.read_text()[:-30])
    cases, findings = read(tmp_path)
    assert [line for line in findings.problems if "BTCV.jsonl: line 4: is no JSON" in line] == findings.problems
    assert len(findings.problems) == 1 and len(cases) == 19
