"""Masks whose headers are right and whose voxels are not: named before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.prepare.case import Case, Mask
from datasets.prepare.command import main
from datasets.prepare.mask_voxels import FILES, look_at_masks
from tests.replicas import SEGMENTATION


def write(path: Path, *values: float) -> Path:
    array = np.zeros((4, 4, 4), np.float32)
    array.flat[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def cases_of(*masks: Path, others: tuple[int, ...] | None = ()) -> list[Case]:
    labels = {"liver": (1,), "kidney": (2,)}
    return [
        Case(path.stem, path.stem, path, masks={label: Mask((path,), v, "", others) for label, v in labels.items()})
        for path in masks
    ]


def changed(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj, np.float32)), image.affine), path)


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[0, 0, 0] = value
        return array

    return change


@pytest.mark.parametrize(
    "value, words",
    [(9, "holds 9, which is no label (its labels are 1, 2, 3, 4)"), (1.5, "no whole numbers"), (-1, "from -1 to")],
)
def test_a_value_that_is_no_label_is_a_problem_and_nothing_is_written(
    value: float, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    SEGMENTATION["abdomenct_1k"](source)
    mask = sorted(source.glob("Masks/*.nii.gz"))[0]
    changed(mask, put(value))
    for arguments in (["check", "abdomenct_1k"], ["abdomenct_1k", "--out", str(out)]):
        assert main([*arguments, "--source", str(source), "--workers", "1"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"problem: {mask}: ") and words in line
    assert not out.exists() or not any(path.is_file() for path in out.rglob("*"))


def test_a_set_asked_for_1_whose_masks_hold_255_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEGMENTATION["parse22"](tmp_path)
    for mask in tmp_path.glob("train/train/*/label/*.nii.gz"):
        changed(mask, lambda array: (array > 0) * np.float32(255))
    assert main(["check", "parse22", "--source", str(tmp_path), "--workers", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing is labelled: the labels are 1, but the files hold 255" in line


def test_values_of_the_set_that_no_task_takes_are_no_fault(tmp_path: Path) -> None:
    known = write(tmp_path / "a.nii.gz", 1, 2, 15)
    assert look_at_masks(cases_of(known, others=(15,))).faults == {}
    assert look_at_masks(cases_of(known, others=None)).faults == {}
    assert list(look_at_masks(cases_of(known)).faults) == ["a.nii"]


def test_a_value_of_most_masks_is_noted_and_that_of_one_refused(tmp_path: Path) -> None:
    masks = [write(tmp_path / f"{n}.nii.gz", 1, 2, 7, *([8] if n == 2 else [])) for n in range(4)]
    found = look_at_masks(cases_of(*masks))
    assert found.notes == [f"value 7 of 4 masks, as {masks[0]}, is no label, and is not used"]
    assert list(found.faults) == ["2.nii"] and "holds 8" in found.faults["2.nii"][0]


def test_empty_cases_and_absent_labels_are_counted(tmp_path: Path) -> None:
    masks = [write(tmp_path / f"{n}.nii.gz", *([1] if n else [])) for n in range(3)]
    found = look_at_masks(cases_of(*masks))
    assert found.problem == "" and found.faults == {}
    assert found.notes == [
        f"nothing is labelled in 1 of 3 cases that were looked at, as {masks[0]}",
        "no mask of the 3 cases that were looked at has a voxel of kidney",
    ]


def test_many_masks_are_sampled_and_all_read_where_the_sample_is_empty(tmp_path: Path) -> None:
    empty, full = write(tmp_path / "empty.nii.gz"), write(tmp_path / "full.nii.gz", 1, 2)
    cases = [Case(f"{n}", f"{n}", empty, masks={"liver": Mask((empty,), (1,), "", ())}) for n in range(3 * FILES)]
    assert "nothing is labelled" in look_at_masks(cases).problem
    cases[1] = Case("1", "1", full, masks={"liver": Mask((full,), (1,), "", (2,))})
    assert look_at_masks(cases).problem == ""
