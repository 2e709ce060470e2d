"""Every replica of a segmentation set, read as its data set: cases, splits and masks against what was put in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.catalog import published_tasks
from datasets.prepare.case import Case, Findings, Mask
from datasets.prepare.registry import find_data_set
from datasets.volume.loading import read_mask, read_volume
from tests.replicas import SEGMENTATION, Truth

# Fractional labels behind a slope, and a grid that is off by 0.06 of a voxel, are still refused by the loaders.
REFUSED = {"ct_org", "ct_org@mirror", "kits23"}


def read(name: str, folder: Path, **settings: str) -> tuple[list[Case], Findings]:
    findings = Findings()
    return find_data_set(name.partition("@")[0]).read(folder, settings, findings), findings


@pytest.fixture(scope="module", params=SEGMENTATION)
def replica(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Truth]]:
    folder = tmp_path_factory.mktemp("replica")
    yield request.param, folder, SEGMENTATION[request.param](folder)


def mask_of(mask: Mask, case: Case) -> np.ndarray:
    """A structure's mask along RAS axes, by the project's own loader."""
    geometry = read_volume(case.image)[1]
    values = None if mask.values is None else [list(mask.values)]
    return np.any([read_mask(path, geometry, values)[0] for path in mask.files], axis=0)


def test_cases_and_masks_are_those_of_the_truth(replica: tuple[str, Path, Truth]) -> None:
    name, folder, truth = replica
    if name in REFUSED:
        pytest.xfail("the loaders refuse its masks")
    cases, findings = read(name, folder)
    assert findings.problems == []
    assert sorted(case.id for case in cases) == sorted(truth.cases)
    assert sorted(findings.excluded) == sorted(truth.excluded)
    for case in cases:
        expected = truth.cases[case.id]
        assert (case.patient, case.split) == (expected.patient, expected.split)
        hu, geometry = read_volume(case.image)
        np.testing.assert_array_equal(hu[0] + case.hu_offset, expected.hu)
        np.testing.assert_allclose(geometry.affine, expected.affine, atol=1e-4)
        assert set(case.masks) == set(expected.masks)
        for label, mask in case.masks.items():
            np.testing.assert_array_equal(mask_of(mask, case), expected.masks[label], err_msg=f"{case.id} {label}")


def test_the_labels_are_those_of_the_task(replica: tuple[str, Path, Truth]) -> None:
    name, folder, _ = replica
    data_set = find_data_set(name.partition("@")[0])
    tasks = {task.name: task for task in published_tasks()}
    cases, _ = read(name, folder)
    for task in data_set.pretraining:
        labels = {label for case in cases if task in (case.tasks or data_set.pretraining) for label in case.masks}
        assert labels == set(tasks[task].labels)


def test_a_replica_is_found_by_its_marks_and_by_no_other_set(replica: tuple[str, Path, Truth]) -> None:
    name, folder, _ = replica
    data_set = find_data_set(name.partition("@")[0])
    assert all(any(folder.glob(mark)) for mark in data_set.marks)
