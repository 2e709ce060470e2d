"""Masks on another grid than their image: refused, or resampled once, by --resample_masks."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

from datasets.catalog import load_records, published_tasks
from datasets.prepare import command, converted_masks, registry
from datasets.prepare.case import Mask
from datasets.prepare.pretraining_rows import mask_fields
from datasets.volume import read_mask, read_volume
from tests.full_disk import largest_file
from tests.replicas import SEGMENTATION
from tests.toy_data_set import toy_set, write_toy

TASK = "AbdomenCT1K_structure_segmentation"


@pytest.fixture
def finer(tmp_path, monkeypatch):
    """A data set whose masks have twice as many voxels along x as their images; and a function that prepares it."""
    data_set = toy_set(pretraining=(TASK,), instruction=(), benchmarks=())
    for module in (command, registry):
        monkeypatch.setattr(module, "data_sets", lambda: {"toy": data_set})
    source = write_toy(tmp_path / "toy", ["train"] * 3 + ["val", "test"])
    for path in (source / "labels").iterdir():
        image = nib.load(path)
        fine = np.repeat(np.asarray(image.dataobj), 2, axis=0)
        affine = image.affine @ np.diag([0.5, 1, 1, 1])
        affine[:3, 3] = (image.affine @ [-0.25, 0, 0, 1])[:3]  # the outer faces of the voxels stay where they are
        nib.save(nib.Nifti1Image(fine, affine), path)

    def prepare(*options: str) -> int:
        arguments = ["toy", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
        return command.main([*arguments, *options])

    return source, tmp_path / "out", prepare


def test_they_are_refused_without_the_option(finer, capsys):
    _, out, prepare = finer
    assert prepare() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all("24 x 10 x 8 voxels instead of 12 x 10 x 8" in line for line in lines)
    assert all("--resample_masks" in line for line in lines)
    assert not out.exists()


def test_resampled_masks_lie_where_the_structures_are(finer):
    _, out, prepare = finer
    assert prepare("--resample_masks") == 0
    tasks = [task for task in published_tasks(out / "pretraining") if task.name == TASK]
    for record in load_records(tasks, "train")[TASK]:
        assert record.mask_path.startswith(str(out / "toy" / "masks"))
        stored = nib.load(record.mask_path)
        image = nib.load(record.image_path)
        np.testing.assert_allclose(stored.affine, image.affine)
        labels = np.asarray(stored.dataobj)
        even = record.patient_id in ("p0", "p2")
        for organ, slab in (("liver", 1), ("kidney", 2), ("spleen", 3)):
            expected = np.zeros(image.shape, bool)
            expected[slab] = organ != "spleen" or even
            np.testing.assert_array_equal(labels == record.mask_values[organ], expected)
        _, geometry = read_volume(record.image_path)
        np.testing.assert_array_equal(
            read_mask(record.mask_path, geometry, [1])[0], geometry.from_source((labels == 1).astype(np.uint8))
        )


def test_interrupted_and_started_again_it_goes_on(finer, monkeypatch, capsys):
    _, out, prepare = finer
    real, count = converted_masks.resample, []

    def interrupted(*arguments):
        count.append(arguments)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(converted_masks, "resample", interrupted)
    assert prepare("--resample_masks") == 130
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert len(made) == 2 and not list(out.rglob("*.json")) and not list(out.rglob("*.part"))
    monkeypatch.setattr(converted_masks, "resample", real)
    assert prepare("--resample_masks") == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert prepare("--resample_masks") == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first


def test_a_full_disk_is_no_fault_of_a_case(finer, capsys):
    """Not even where bad cases are to be left out: none of these is."""
    _, out, prepare = finer
    with largest_file(20):
        assert prepare("--resample_masks", "--skip_bad") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {out}/toy/masks/") and line.endswith("cannot be written (File too large)")
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert prepare("--resample_masks", "--skip_bad") == 0
    assert len(json.loads((out / "pretraining" / f"{TASK}_train.json").read_text())) == 3


def test_an_old_mask_is_made_again_where_its_source_changed(finer):
    source, out, prepare = finer
    assert prepare("--resample_masks") == 0
    path = source / "labels" / "p0_0.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert prepare("--resample_masks") == 0
    rows = json.loads((out / "pretraining" / f"{TASK}_train.json").read_text())
    assert not np.asarray(nib.load(rows[0]["mask_path"]).dataobj).any()


def test_masks_that_were_made_are_removed_where_a_later_one_is_bad(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    SEGMENTATION["fumpe"](source)
    last = sorted((source / "GroundTruth").glob("*.mat"))[-1]
    good = last.read_bytes()
    savemat(last, {"Mask": np.ones((5, 5, 5), np.uint8)})
    arguments = ["fumpe", "--source", str(source), "--out", str(out), "--workers", "1"]
    assert command.main(arguments) == 1
    assert f"{last}: Mask has shape (5, 5, 5)" in capsys.readouterr().err
    assert not out.exists()
    last.write_bytes(good)
    assert command.main(arguments) == 0
    made = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    savemat(last, {"Mask": np.ones((5, 5, 5), np.uint8)})
    assert command.main(arguments) == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == made


def test_masks_as_fields(tmp_path):
    one, two = tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"
    assert mask_fields({"a": Mask((one,), (1,)), "b": Mask((one,), (2, 3))}) == {
        "mask_path": str(one),
        "mask_values": {"a": 1, "b": [2, 3]},
    }
    assert mask_fields({"a": Mask((one,)), "b": Mask((one, two))}) == {"mask_path": [str(one), [str(one), str(two)]]}
    assert mask_fields({"a": Mask((one,), (1,)), "b": Mask((one,))}) == {
        "mask_path": [str(one), str(one)],
        "mask_values": {"a": 1},
    }
