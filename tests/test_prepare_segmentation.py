"""Every replica of a segmentation set, read as its data set: cases, splits and masks against what was put in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.catalog import published_tasks
from datasets.prepare.case import Case, Findings, Mask
from datasets.prepare.found import find
from datasets.prepare.mask_conversion import convert
from datasets.prepare.registry import data_sets, find_data_set
from datasets.prepare.sat_ds_splits import with_sat_ds_split
from datasets.volume.loading import read_label_map, read_volume
from tests.replicas import SEGMENTATION, Truth


def read(name: str, folder: Path, **settings: str) -> tuple[list[Case], Findings]:
    findings = Findings()
    return find_data_set(name.partition("@")[0]).read(folder, settings, findings), findings


@pytest.fixture(scope="module", params=SEGMENTATION)
def replica(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Truth]]:
    folder = tmp_path_factory.mktemp("replica")
    yield request.param, folder, SEGMENTATION[request.param](folder)


class Masks:
    """The masks of a case along RAS axes, by the project's own loader; each file is read once."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.hu, self.geometry = read_volume(case.image, hu_offset=case.hu_offset)
        self.labels: dict[Path, np.ndarray] = {}

    def __getitem__(self, label: str) -> np.ndarray:
        mask = self.case.masks[label]
        parts = [self._labels(path, mask) for path in mask.files]
        return np.any([part != 0 if mask.values is None else np.isin(part, mask.values) for part in parts], axis=0)

    def _labels(self, path: Path, mask: Mask) -> np.ndarray:
        if path not in self.labels:
            place = path
            if mask.conversion:
                place = convert(replace(mask, files=(path,)), self.case.image, self.case, self.folder / "made.nii.gz")
            self.labels[path] = read_label_map(place, self.geometry)
        return self.labels[path]


def test_cases_and_masks_are_those_of_the_truth(replica: tuple[str, Path, Truth], tmp_path: Path) -> None:
    name, folder, truth = replica
    cases, findings = read(name, folder)
    assert findings.problems == []
    assert sorted(case.id for case in cases) == sorted(truth.cases)
    assert sorted(findings.excluded) == sorted(truth.excluded)
    for case in cases:
        expected = truth.cases[case.id]
        assert (case.patient, case.split) == (expected.patient, expected.split)
        masks = Masks(case, tmp_path / case.id)
        np.testing.assert_array_equal(masks.hu[0], expected.hu)
        np.testing.assert_allclose(masks.geometry.affine, expected.affine, atol=1e-4)
        assert set(case.masks) == set(expected.masks)
        for label in case.masks:
            np.testing.assert_array_equal(masks[label], expected.masks[label], err_msg=f"{case.id} {label}")


def test_the_labels_are_those_of_the_task(replica: tuple[str, Path, Truth]) -> None:
    name, folder, _ = replica
    data_set = find_data_set(name.partition("@")[0])
    tasks = {task.name: task for task in published_tasks()}
    cases, _ = read(name, folder)
    for task in data_set.pretraining if name != "totalsegmentator@v1" else ():
        labels = {label for case in cases if task in (case.tasks or data_set.pretraining) for label in case.masks}
        assert labels == set(tasks[task].labels)


# Forms of a set whose marks lie one or two folders further down.
DEEPER = {"luna16@sat_ds": "part1", "hecktor22@sat_ds": "hecktor2022_training/hecktor2022"}


def test_a_replica_is_found_by_its_marks_and_by_those_of_no_other_set(replica: tuple[str, Path, Truth]) -> None:
    name, folder, _ = replica
    found = find(folder, data_sets().values())
    assert found == {name.partition("@")[0]: [folder / DEEPER.get(name, ".")]}


@pytest.mark.parametrize("name", DEEPER)
def test_a_deeper_folder_is_read_as_well(name: str, tmp_path: Path) -> None:
    truth = SEGMENTATION[name](tmp_path)
    cases, findings = read(name, tmp_path / DEEPER[name])
    assert findings.problems == []
    assert sorted(case.id for case in cases) == sorted(truth.cases)


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("abdomenct_1k", ["Case_00001_0000.nii.gz"], ["Case_00558_0000.nii.gz"]),
        ("ct_org", ["volume-1.nii.gz"], ["volume-107.nii.gz"]),
        ("totalsegmentator", ["s0000"], ["s0011", "s1427"]),
        ("autopet", ["PETCT_0011f3deaf"], ["PETCT_01140d52d8"]),
        ("sega", ["D1"], ["R1 (AD)"]),
        ("fumpe", ["PAT001"], ["PAT035"]),
        ("kits23", ["case_00000"], ["case_00588"]),
        ("lndb", ["LNDb-0001.mhd"], ["LNDb-0002.mhd"]),
        ("mm_whs", ["ct_train_1001_image.nii.gz", "ct_train_1001_label.nii.gz"], ["ct_train_1020_image.nii.gz"]),
    ],
)
def test_cases_go_by_the_names_of_sat_ds_splits(name: str, train: list[str], test: list[str], tmp_path: Path) -> None:
    SEGMENTATION[name](tmp_path / "source")
    (tmp_path / "split.json").write_text(json.dumps({"train": train, "test": test}))
    listed, excluded = with_sat_ds_split(read(name, tmp_path / "source")[0], tmp_path / "split.json")
    assert {case.split for case in listed} == {"train", "test"}
    times = {"totalsegmentator": 2}.get(name, 1)  # its subjects make two cases
    assert sum(case.split == "test" for case in listed) == (2 if name == "autopet" else len(test) * times)
    assert excluded
