"""Every replica of a segmentation set through the whole command: what its manifests say, read as training reads it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from datasets.catalog import published_tasks
from datasets.manifest import load_manifest
from datasets.prepare.command import main
from datasets.prepare.registry import find_data_set
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.pretraining_records import SegmentationRecord
from datasets.record_masks import read_source
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_label_map, read_volume
from tests.replicas import SEGMENTATION
from tests.replicas.truth import CaseTruth, Truth

TASKS = {task.name: task for task in published_tasks()}
FORMS = [name for name in SEGMENTATION if find_data_set(name.partition("@")[0]).pretraining]


def case_of(truth: Truth, hu: np.ndarray, labels: list[str]) -> CaseTruth:
    """The case whose voxels these are, and which has these labels."""
    (case,) = [case for case in truth.cases.values() if np.array_equal(case.hu, hu) and set(labels) <= set(case.masks)]
    return case


labels_of = lru_cache(maxsize=100)(read_label_map)


def union(files: list[str], values: object, geometry: VolumeGeometry) -> np.ndarray:
    parts = [labels_of(path, geometry) for path in files]
    return np.any([part != 0 if values is None else np.isin(part, values) for part in parts], axis=0)


@pytest.mark.parametrize("name", FORMS)
def test_the_records_hold_the_masks_of_the_truth(name: str, tmp_path: Path) -> None:
    truth = SEGMENTATION[name](tmp_path / "source")
    before = sorted(path for path in (tmp_path / "source").rglob("*"))
    data_set, out = find_data_set(name.partition("@")[0]), tmp_path / "out"
    assert main([data_set.name, "--source", str(tmp_path / "source"), "--out", str(out)]) == 0
    assert sorted(path for path in (tmp_path / "source").rglob("*")) == before
    seen, patients = 0, {}
    for task in [TASKS[name] for name in data_set.pretraining]:
        for split in ("train", "val", "test"):
            path = out / "pretraining" / f"{task.name}_{split}.json"
            for record in load_pretraining_manifest(path, task.kind, task.labels) if path.is_file() else []:
                assert isinstance(record, SegmentationRecord)
                assert patients.setdefault(record.patient_id, split) == split
                hu, geometry = read_volume(record.image_path, hu_offset=record.hu_offset)
                expected = case_of(truth, hu[0], record.names)
                files = record.mask_files * (len(record.names) if isinstance(record.mask_path, str) else 1)
                values = record.values or [None] * len(files)
                for label, paths, value in zip(record.names, files, values, strict=True):
                    np.testing.assert_array_equal(union(paths, value, geometry), expected.masks[label], err_msg=label)
                seen += 1
    assert seen == sum(not id.endswith("_organs") for id in truth.cases)


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [("abdomenct_1k", "AbdomenCT-1K"), ("ct_org", "CT-ORG"), ("totalsegmentator@v1", "TotalSegmentator")],
)
def test_the_questions_of_benchmarks_ask_for_what_is_there(name: str, benchmark: str, tmp_path: Path) -> None:
    truth = SEGMENTATION[name](tmp_path / "source")
    assert main([name.partition("@")[0], "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]) == 0
    records = load_manifest(tmp_path / "out" / "benchmarks" / f"{benchmark}.json")
    asked: set[tuple[str, str]] = set()
    for record in records:
        hu, geometry = read_volume(record.image_path[0])
        for number, label in enumerate(record.labels):
            expected = case_of(truth, hu[0], [label])
            asked.add((expected.patient, label))
            mask = read_source(record.mask_source(number), geometry)
            assert mask.any()
            np.testing.assert_array_equal(mask > 0, expected.masks[label])
    tested = {patient for patient, _ in asked}
    present = {
        (case.patient, label)
        for case in truth.cases.values()
        if case.patient in tested
        for label, mask in case.masks.items()
        if mask.any()
    }
    assert asked == present
