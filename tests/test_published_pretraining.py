"""Pretraining manifests of the published form: one file for all splits, classes by number, lines of SAT-DS."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.catalog import PretrainingTask, load_records
from datasets.errors import InputError
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.preprocessed_crops import crop_masks, load_crop
from tests.published_files import BOX_FIELD, BOXES, SHAPE, mask_by_loops, replica, write_json, write_lines

CLASSES = ("COVID", "pneumonia", "normal")
ORGANS = ("liver", "spleen", "pancreas")


@pytest.fixture
def folder(tmp_path):
    replica(tmp_path)
    return tmp_path


def task(folder, kind, labels=(), loss=None):
    return PretrainingTask("some", kind, 1.0, f"{folder}/some_{{split}}.json", tuple(labels), loss)


def line(**more):
    return {
        "image": "nii/ct.nii", "mask": "nii/mask.nii", "label": list(ORGANS), "modality": "CT", "dataset": "CTORG",
        "official_split": "unknown", "patient_id": "p", "sample_id": 3, "renorm_image": "ct.npy", "chwd": [1, *SHAPE],
        "renorm_segmentation_dir": "masks/0001", BOX_FIELD: [list(BOXES["liver"]), list(BOXES["spleen"]), False],
        "roi_y1x1z1_y2x2z2": [2, 3, 1, 12, 16, 6], **more,
    }  # fmt: skip


def test_one_file_has_all_splits(folder):
    rows = {
        "train": [{"img_path": "ct.npy", "answer": "Clear."}] * 2,
        "test": [{"img_path": "ct.npy", "answer": "Not."}],
    }
    write_json(folder / "some.json", rows)
    some = task(folder, "image_text")
    assert [row.report for row in load_records([some])["some"]] == ["Clear."] * 2
    (record,) = load_records([some], "test")["some"]
    assert record.report == "Not." and record.image_path == str(folder / "ct.npy")
    assert some.path("val") == folder / "some_val.json"  # it has none
    with pytest.raises(InputError, match=r"some\.json: holds the splits train, test; it has no split 'val'"):
        load_pretraining_manifest(folder / "some.json", "image_text", split="val")
    write_json(folder / "some_train.json", [{"image_path": "ct.npy", "report": "Ours."}])
    assert load_records([some])["some"][0].report == "Ours."  # ours is taken first
    rows["test"].append({"img_path": "ct.npy"})
    write_json(folder / "some.json", rows)
    with pytest.raises(InputError, match=r"some\.json, split test: row 1, field report: Field required"):
        load_records([some], "test")


def test_classes_come_by_number_or_as_a_vector(folder):
    write_json(folder / "some.json", {"train": [{"img_path": "ct.npy", "disease_label": 1}]})
    assert load_records([task(folder, "classification", CLASSES, "CE")])["some"][0].disease_label == "pneumonia"
    vector = {"train": [{"img_path": "ct.npy", "label": [1, 0, 1]}]}
    write_json(folder / "some.json", vector)
    (record,) = load_records([task(folder, "classification", CLASSES, "BCE")])["some"]
    assert record.disease_label == {"COVID": 1, "pneumonia": 0, "normal": 1} and record.class_numbers is None


@pytest.mark.parametrize(
    ("kind", "row", "complaint"),
    [
        ("classification", {"img_path": "ct.npy", "disease_label": 3}, "disease_label: class 3, but this task has 3"),
        ("classification", {"img_path": "ct.npy", "disease_label": [1, 0]}, "disease_label: 2 values for 3 labels"),
        ("classification", {"img_path": "ct.npy", "disease_label": [1, 0, 2]}, "disease_label: give a label"),
        (
            "classification",
            {"img_path": "ct.npy", "disease_lable": 1},
            "disease_lable: .* did you mean 'disease_label'",
        ),
        (
            "image_text",
            {"img_path": "ct.npy", "image_path": "ct.npy", "answer": "x"},
            "img_path: given beside image_path",
        ),
        ("image_text", {"img_path": "ct.npy", "anwser": "x"}, "anwser: is not a known field; did you mean 'answer'"),
        ("segmentation", line(renorm_y1x1z1_y2x2z2=[[3, 0, 0, 3, 1, 1], False, False]), f"{BOX_FIELD}: .* is no box"),
        ("segmentation", line(renorm_img="ct.npy"), "renorm_img: .* did you mean 'renorm_image'"),
        (
            "segmentation",
            {"image": "a.nii", "mask": "b.nii", "label": ["liver"]},
            "renorm_image: missing, so the line was",
        ),
    ],
)
def test_a_bad_record_is_refused_by_file_row_and_field(folder, kind, row, complaint):
    path = write_json(folder / "some_train.json", [row])
    labels = {"classification": CLASSES, "segmentation": ORGANS}.get(kind, ())
    with pytest.raises(InputError, match=rf"some_train\.json: row 0, field {complaint}"):
        load_pretraining_manifest(path, kind, labels, "BCE")


def test_lines_of_sat_ds_load_as_they_are_and_their_masks_fit_voxel_by_voxel(folder):
    write_lines(folder / "some_train.jsonl", [line()])
    (record,) = load_records([task(folder, "segmentation", ORGANS)])["some"]
    array, geometry = load_crop(record.image_path)
    np.testing.assert_array_equal(array, np.load(folder / "ct.npy"))
    for label, mask in zip(ORGANS, crop_masks(record.mask_folder, record.labels, record.boxes, geometry), strict=True):
        np.testing.assert_array_equal(mask, mask_by_loops(folder, label))


def test_lines_are_sorted_by_their_official_split(folder):
    rows = [
        line(patient_id=str(number), official_split=split) for number, split in enumerate(["unknown", "test", "train"])
    ]
    write_lines(folder / "some.jsonl", rows)
    some = task(folder, "segmentation", ORGANS)
    assert [row.patient_id for row in load_records([some])["some"]] == ["0", "2"]
    assert [row.patient_id for row in load_records([some], "test")["some"]] == ["1"]
    write_lines(folder / "some_val.jsonl", rows)  # a file of one split, whatever its lines say
    assert len(load_records([some], "val")["some"]) == 3
    write_lines(folder / "some.jsonl", [line(official_split="fold 3")])
    with pytest.raises(InputError, match=r"some\.jsonl: row 0, field official_split: 'fold 3' is none of train, val"):
        load_pretraining_manifest(folder / "some.jsonl", "segmentation", ORGANS, split="train")
    (folder / "some.jsonl").write_text('{"image"\n')
    with pytest.raises(InputError, match=r"some\.jsonl: row 0, not JSON"):
        load_pretraining_manifest(folder / "some.jsonl", "segmentation", ORGANS)


def test_paths_of_lines_are_found_from_the_folder_that_sat_ds_ran_in(folder):
    (folder / "data" / "jsonl").mkdir(parents=True)
    path = write_lines(folder / "data" / "jsonl" / "CTORG_train.jsonl", [line()])
    (record,) = load_pretraining_manifest(path, "segmentation", ORGANS)
    assert record.image_path == str(folder / "ct.npy") and record.mask_folder == str(folder / "masks/0001")


def test_crops_and_masks_may_be_npz(tmp_path):
    replica(tmp_path, ".npz")
    np.savez(tmp_path / "ct.npz", np.load(tmp_path / "ct.npy"))
    array, geometry = load_crop(tmp_path / "ct.npz")
    assert isinstance(geometry, VolumeGeometry) and array.shape == (1, *SHAPE)
    masks = crop_masks(str(tmp_path / "masks/0001"), ORGANS, [*BOXES.values(), None], geometry)
    for label, mask in zip(ORGANS, masks, strict=True):
        np.testing.assert_array_equal(mask, mask_by_loops(tmp_path, label))
