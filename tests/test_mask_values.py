"""Masks in several files of which some have several labels, and volumes that are stored off HU: in every reader."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.manifest import ManifestError, load_manifest
from datasets.prepare.instructions import InstructionBuilder, build
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.record_masks import answer_masks, read_source, record_masks
from datasets.volume.anyres import pad_masks, place_mask
from datasets.volume.cache import RecentLoader, VolumeLoader
from datasets.volume.loading import read_volume
from datasets.volume.preprocessing import Preprocessing
from evaluation.report.mask_cases import read_case

LABELS = ["spleen", "kidney", "nodule"]
FILES = ["organs.nii.gz", ["left.nii.gz", "right.nii.gz"], "instances.nii.gz"]
VALUES = {"spleen": 5, "kidney": [2, 3]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("organs", "left", "right", "instances"):
        nib.save(
            nib.Nifti1Image(rng.integers(0, 7, (16, 18, 14)).astype(np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz"
        )
    ct = rng.integers(-900, 900, (16, 18, 14)).astype(np.int16)
    nib.save(nib.Nifti1Image(ct, np.eye(4)), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(ct + np.int16(1000), np.eye(4)), tmp_path / "raised.nii.gz")
    return tmp_path


def truths(folder: Path) -> list[np.ndarray]:
    def stored(name: str) -> np.ndarray:
        return np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)

    kidney = np.isin(stored("left"), (2, 3)) | np.isin(stored("right"), (2, 3))
    return [stored("organs") == 5, kidney, stored("instances") > 0]


def write(folder: Path, rows: list, name: str = "m.json") -> Path:
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def loader(folder: Path, cache: str | None = None) -> VolumeLoader:
    return VolumeLoader(Preprocessing.standard((8, 8, 8), 16), folder / cache if cache else None)


def row(**changes: object) -> dict:
    masks = {"labels": LABELS, "mask_path": FILES, "mask_values": VALUES}
    return {"image_path": "ct.nii.gz", **masks, **changes}


def asked(**changes: object) -> dict:
    return row(question="Where?", answer="<SEG> <SEG> <SEG>", **changes)


def test_an_answers_masks_are_the_values_of_each_file(folder):
    (record,) = load_manifest(write(folder, [asked()]))
    _, geometry = read_volume(folder / "ct.nii.gz")
    for number, truth in enumerate(truths(folder)):
        np.testing.assert_array_equal(read_source(record.mask_source(number), geometry), truth)
    for reader in (loader(folder), RecentLoader(loader(folder, "cache"), 1)):
        volume, loaded = reader.volume(record.image_path[0])
        expected = place_mask(
            loaded.from_source(np.stack(truths(folder), -1)).transpose(3, 0, 1, 2).astype(np.uint8), volume.placement
        )
        torch.testing.assert_close(answer_masks(record, reader, volume.placement, loaded), expected)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_one_file_a_label_goes_with_values_through_the_cache(folder, cache):
    rows = [
        {**row(), "question": "Where?", "answer": "<SEG> <SEG>", "labels": ["spleen", "nodule"], "id": str(value),
         "mask_path": ["organs.nii.gz", "instances.nii.gz"], "mask_values": {"spleen": value}}
        for value in (5, 6)
    ]  # fmt: skip
    reader = loader(folder, cache)
    organs = np.asarray(nib.load(folder / "organs.nii.gz").dataobj)
    for record, value in zip(load_manifest(write(folder, rows)), (5, 6), strict=True):
        volume, geometry = reader.volume(record.image_path[0])
        masks = np.stack([geometry.from_source(m).astype(np.uint8) for m in (organs == value, truths(folder)[2])])
        expected = place_mask(masks, volume.placement)
        for _ in range(2):  # the second time from the cache
            torch.testing.assert_close(answer_masks(record, reader, volume.placement, geometry), expected)


def test_a_pretraining_records_masks_are_the_values_of_each_file(folder):
    by_label = dict(zip(LABELS, FILES, strict=True))
    rows = [row(), {"image_path": "ct.nii.gz", "mask_path": by_label, "mask_values": VALUES}]
    for record in load_pretraining_manifest(write(folder, rows), "segmentation", LABELS):
        volume, geometry = loader(folder).volume(record.image_path)
        masks = record_masks(record, loader(folder), volume.placement, geometry).dense([0, 1, 2])
        expected = place_mask(
            np.stack([geometry.from_source(m) for m in truths(folder)]).astype(np.uint8), volume.placement
        )
        torch.testing.assert_close(pad_masks(masks, 3, volume.placement), expected)


def test_labels_of_other_tasks_take_their_values_along(folder):
    (record,) = load_pretraining_manifest(
        write(folder, [row()]), "segmentation", ["nodule", "kidney"], drop_other_labels=True
    )
    assert record.labels == ["kidney", "nodule"] and record.values == [[2, 3], None]
    assert record.mask_files == [
        [str(folder / "left.nii.gz"), str(folder / "right.nii.gz")],
        [str(folder / "instances.nii.gz")],
    ]


def test_a_union_of_files_has_the_value_of_each_structure(folder):
    files = ["organs.nii.gz", "left.nii.gz"]
    union = {"question": "Where?", "image_path": "ct.nii.gz", "answer": "<SEG>", "labels": [["spleen", "kidney"]]}
    (record,) = load_manifest(write(folder, [{**union, "mask_path": [files], "mask_values": VALUES}]))
    left = np.asarray(nib.load(folder / "left.nii.gz").dataobj)
    source = record.mask_source(0)
    expected = truths(folder)[0] | np.isin(left, (2, 3))
    np.testing.assert_array_equal(read_source(source, read_volume(folder / "ct.nii.gz")[1]), expected)
    entry = {"truth_path": source.paths, "truth_values": source.values, "truth_values_by_file": source.by_file}
    drawn = read_case(folder, {"image_path": record.image_path}, json.loads(json.dumps(entry)), None)
    np.testing.assert_array_equal(drawn.truth, expected)
    with pytest.raises(ManifestError, match="mask_values: 3 files for the 2 structures spleen, kidney; give a file"):
        load_manifest(write(folder, [{**union, "mask_path": [[*files, "right.nii.gz"]], "mask_values": VALUES}]))


def test_prepared_instructions_keep_the_values(folder):
    prepared = folder / "prepared.json"
    build("segmentation", write(folder, [row(hu_offset=-10)]), prepared, InstructionBuilder(seed=1))
    seen: set[str] = set()
    for record in load_manifest(prepared):
        assert record.hu_offset == -10
        for number, label in enumerate(record.labels):
            seen.add(label)
            mask = read_source(record.mask_source(number), read_volume(folder / "ct.nii.gz")[1])
            np.testing.assert_array_equal(mask, truths(folder)[LABELS.index(label)])
    assert seen == set(LABELS)


@pytest.mark.parametrize("made", [row, asked])
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mask_values": {"spleeen": 5}}, "mask_values: 'spleeen' is not among the labels; did you mean 'spleen'"),
        ({"mask_path": [*FILES[:1], "gone.nii.gz", "organs.nii.gz"]}, "mask_path: no such file: .*gone"),
        ({"mask_path": [*FILES[:1], [], "organs.nii.gz"]}, "mask_path"),
        ({"hu_offset": "much"}, "hu_offset"),
    ],
)
def test_what_fits_no_label_is_refused(folder, made, changes, complaint):
    path = write(folder, [made(**changes)])
    with pytest.raises(ManifestError, match=f"row 0, field {complaint}"):
        load_manifest(path) if made is asked else load_pretraining_manifest(path, "segmentation", LABELS)


def test_cached_masks_lie_on_the_crop_of_their_offset(folder):
    """Of a volume stored as HU + 1000 the foreground is nearly all, of HU not."""
    for file, change in (("ct", 0), ("raised", 1000)):
        body = np.full((16, 18, 14), -990 + change, np.int16)
        body[4:12, 5:13, 3:11] = np.random.default_rng(1).integers(20, 60, (8, 8, 8)) + change
        nib.save(nib.Nifti1Image(body, np.eye(4)), folder / f"{file}.nii.gz")
    rows = [asked(image_path="raised.nii.gz", labels=["a", "b", "c"], mask_path="organs.nii.gz", id=str(offset),
                  mask_values={"a": 1, "b": 2, "c": 3}, hu_offset=offset) for offset in (0, -1000)]  # fmt: skip
    pretraining = [
        {name: value for name, value in row.items() if name not in ("question", "answer", "id")} for row in rows
    ]
    records = zip(
        load_manifest(write(folder, rows)),
        load_pretraining_manifest(write(folder, pretraining, "p.json"), "segmentation", ["a", "b", "c"]),
        strict=True,
    )
    shapes = []
    for answer, record in records:
        reader = loader(folder, "cache")
        volume, geometry = reader.volume(record.image_path, record.hu_offset)
        shapes.append(geometry.shape)
        organs = np.asarray(nib.load(folder / "organs.nii.gz").dataobj)
        truth = geometry.from_source(np.stack([organs == value for value in (1, 2, 3)], -1)).transpose(3, 0, 1, 2)
        expected = place_mask(truth.astype(np.uint8), volume.placement)
        torch.testing.assert_close(answer_masks(answer, reader, volume.placement, geometry), expected)
        masks = record_masks(record, reader, volume.placement, geometry).dense([0, 1, 2])
        torch.testing.assert_close(pad_masks(masks, 3, volume.placement), expected)
    assert shapes == [(16, 18, 14), (8, 8, 8)]


def test_an_offset_makes_hu_of_what_is_stored(folder):
    for reader in (loader(folder), loader(folder, "cache"), RecentLoader(loader(folder), 4)):
        volume, geometry = reader.volume(folder / "ct.nii.gz")
        stored, _ = reader.volume(folder / "raised.nii.gz")
        for _ in range(2):
            raised, same = reader.volume(folder / "raised.nii.gz", -1000.0)
            torch.testing.assert_close(raised.patches, volume.patches)
            assert same.crop_start == geometry.crop_start and same.crop_stop == geometry.crop_stop
        again, _ = reader.volume(folder / "raised.nii.gz")
        assert torch.equal(again.patches, stored.patches) and not torch.allclose(stored.patches, volume.patches)
