"""Instruction manifests of the published form: masks land voxel by voxel, targets by name, and faults are named."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from datasets.manifest import ManifestError, load_manifest
from datasets.record_masks import answer_masks, read_source
from datasets.vocabulary import diseases_of
from datasets.volume.anyres import patchify, place_mask
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.preprocessing import Preprocessing
from evaluation.report.mask_cases import read_case
from tests.published_files import BOX_FIELD, BOXES, SHAPE, mask_by_loops, replica, write_json


def geometry_of(record, orientation="RAS", affine=None):
    affine = np.eye(4) if affine is None else affine
    return VolumeGeometry.of_source(record.image_path[0], SHAPE, affine, orientation)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_the_labels_of_one_answer_are_one_mask_on_the_loaded_grid(tmp_path, suffix):
    (record,) = load_manifest(write_json(tmp_path / "VQA_SEG_test.json", [replica(tmp_path, suffix)]))
    assert record.task == "segmentation" and record.labels == ["liver and spleen and pancreas"]
    assert record.structures == [["liver", "spleen", "pancreas"]]
    union = mask_by_loops(tmp_path, "liver") | mask_by_loops(tmp_path, "spleen")
    assert (mask_by_loops(tmp_path, "liver") & mask_by_loops(tmp_path, "spleen")).any() and not union.all()
    source = record.mask_source(0)
    assert source.boxes == [BOXES["liver"], BOXES["spleen"], None]
    np.testing.assert_array_equal(read_source(source, geometry_of(record)), union)
    # the box counts voxels of the stored array, however the volume is turned and cropped
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned = geometry_of(record, affine=lps).cropped((1, 0, 0), (12, 15, 5))
    np.testing.assert_array_equal(read_source(source, turned), union[::-1, ::-1][1:12, 0:15, 0:5])


def test_the_mask_of_a_sample_lies_on_the_padded_grid(tmp_path):
    (record,) = load_manifest(write_json(tmp_path / "m.json", [replica(tmp_path)]))
    patched = patchify(np.load(tmp_path / "ct.npy"), (16, 16, 4))
    loader = VolumeLoader(Preprocessing.standard((16, 16, 4), 6), tmp_path / "cache")
    masks = answer_masks(record, loader, patched.placement, geometry_of(record))
    union = mask_by_loops(tmp_path, "liver") | mask_by_loops(tmp_path, "spleen")
    expected = place_mask(union[None].astype(np.uint8), patched.placement)
    assert masks.dtype == expected.dtype and masks.equal(expected) and (masks == 1).any()


def test_as_many_masks_as_labels_are_one_each(tmp_path):
    row = {**replica(tmp_path), "answer": "<SEG>, <SEG> and <SEG>."}
    (record,) = load_manifest(write_json(tmp_path / "m.json", [row]))
    assert record.labels == ["liver", "spleen", "pancreas"] and record.mask_boxes is not None
    for number, label in enumerate(record.labels):
        mask = read_source(record.mask_source(number), geometry_of(record))
        np.testing.assert_array_equal(mask, mask_by_loops(tmp_path, label))


def test_masks_of_the_second_volume(tmp_path):
    row = replica(tmp_path)
    row = {
        **row,
        "question": [{"type": "image"}, *row["question"]],
        "image_path": ["ct.npy", "ct.npy"],
        "choose_labels": [[], ["liver"]],
        "mask_path": ["", "masks/0001"],
    }
    for boxes in ([[], [list(BOXES["liver"])]], [list(BOXES["liver"])], list(BOXES["liver"])):
        (record,) = load_manifest(write_json(tmp_path / "m.json", [{**row, BOX_FIELD: boxes}]))
        assert record.mask_image == 1 and record.labels == ["liver"] and record.mask_boxes == [[BOXES["liver"]]]


@pytest.mark.parametrize(("name", "count"), [("RadChestCT", 16), ("CT-RATE", 18)])
@pytest.mark.parametrize("named", [False, True])
def test_targets_in_head_order_tell_their_label_set(tmp_path, name, count, named):
    (tmp_path / "ct.npy").touch()
    truth = [int(number % 3 == 0) for number in range(count)]
    row = {"question": "Which?", "image_path": "ct.npy", "answer": "<disease_confidence> " * count, "targets": truth}
    row |= {"label_set": name} if named else {}
    (record,) = load_manifest(write_json(tmp_path / "m.json", [row]))
    assert record.label_set == name and record.task == "diagnosis" and record.target_vector() == truth
    assert record.targets == dict(zip(diseases_of(name), truth, strict=True))


def test_the_report_draws_a_true_mask_in_boxes(tmp_path):
    row = {**replica(tmp_path), "image_path": "ct.nii.gz"}
    nib.save(nib.Nifti1Image(np.load(tmp_path / "ct.npy")[0], np.diag([-1, -1, 2, 1])), tmp_path / "ct.nii.gz")
    (record,) = load_manifest(write_json(tmp_path / "m.json", [row]))
    source = record.mask_source(0)
    entry = json.loads(json.dumps({"truth_path": source.paths, "truth_values": None, "truth_boxes": source.boxes}))
    case = read_case(tmp_path, {"image_path": record.image_path}, entry, None)
    union = mask_by_loops(tmp_path, "liver") | mask_by_loops(tmp_path, "spleen")
    assert case.problem is None
    np.testing.assert_array_equal(case.truth, union[::-1, ::-1])  # shown in RAS


def test_a_record_without_masks_may_leave_the_published_fields_empty(tmp_path):
    (tmp_path / "ct.npy").touch()
    row = {"question": "What?", "image_path": ["ct.npy"], "answer": "Air.", "choose_labels": [[]], "mask_path": [""],
           BOX_FIELD: [[]], "targets": []}  # fmt: skip
    (record,) = load_manifest(write_json(tmp_path / "m.json", [row]))
    assert record.labels == [] and record.mask_path is None and record.targets == {} and record.task == "open_vqa"


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "ct.npy").touch()
    row = {"question": "Größe?", "image_path": "ct.npy", "answer": "9 mm."}
    assert load_manifest(write_json(tmp_path / "m.json", [row], "utf-8-sig"))[0].text == "Größe?"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"choose_labels": "liver"}, "field choose_labels: give a list of labels for each volume"),
        ({"choose_labels": [["liver"], ["liver"]]}, "field choose_labels: 2 lists for 1 volumes"),
        ({"choose_labels": [["liver", "liver", "spleen"]]}, "field choose_labels: one is listed twice"),
        ({"answer": "Nothing."}, "field choose_labels: 3 labels for 0 <SEG>"),
        ({"answer": "<SEG> <SEG>"}, "field choose_labels: 3 labels for 2 <SEG>"),
        ({"choose_labels": None}, f"field {BOX_FIELD}: boxes are given, but no choose_labels"),
        ({BOX_FIELD: None}, f"field {BOX_FIELD}: needed with choose_labels"),
        ({BOX_FIELD: [[list(BOXES["liver"])]]}, f"field {BOX_FIELD}: 1 boxes for 3 labels"),
        ({BOX_FIELD: [[[5, 5, 5, 5, 9, 9], False, False]]}, f"field {BOX_FIELD}: give .* in whole numbers"),
        ({BOX_FIELD: [[1, 2, 3], False, False]}, rf"field {BOX_FIELD}: \[1, 2, 3\] is no box"),
        ({"mask_path": []}, "field mask_path: give the folder of the masks for each of 1 volumes"),
        ({"mask_path": [None]}, "field mask_path: no folder for volume 0"),
        ({"mask_path": ["elsewhere"]}, "field mask_path: no such file: .*elsewhere/liver.npy"),
        ({"targets": [1] * 17}, "field targets: 17 values, but RadChestCT has 16 and CT-RATE has 18"),
        ({"targets": [1] * 16, "label_set": "CT-RATE"}, "field targets: 16 values"),
        ({"targets": [2] * 16}, "field targets: give 0 or 1"),
        ({"choose_label": [["liver"]]}, "field choose_label: is not a known field; did you mean 'choose_labels'"),
        ({"target": {}}, "field target: is not a known field; did you mean 'targets'"),
        ({"zzz": 1}, "field zzz: is not a known field; known are question, image_path"),
        ({"question": [{"type": "image"}, {"type": "text", "txt": "Hm?"}]}, r"field question\.1\.txt: .*'text'"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, change, complaint):
    row = replica(tmp_path)
    with pytest.raises(ManifestError, match=rf"m\.json: row 1, {complaint}"):
        load_manifest(write_json(tmp_path / "m.json", [row, {**row, **change}]))


def test_two_volumes_cannot_both_have_masks(tmp_path):
    row = replica(tmp_path)
    row |= {
        "question": [{"type": "image"}, *row["question"]],
        "image_path": ["ct.npy"] * 2,
        "choose_labels": [["liver"]] * 2,
    }
    with pytest.raises(ManifestError, match="field choose_labels: volumes 0 and 1 have labels"):
        load_manifest(write_json(tmp_path / "m.json", [row]))


def test_every_fault_is_listed(tmp_path):
    row = replica(tmp_path)
    rows = [{**row, "target": 1, "lable": 2}, row, {**row, "mask_path": ["gone"]}]
    with pytest.raises(ManifestError, match=r"row 0, field target: .* \(and 1 more row\)") as error:
        load_manifest(write_json(tmp_path / "m.json", rows))
    assert [fault.partition("m.json: ")[2].partition(":")[0] for fault in error.value.faults] == [
        "row 0, field target",
        "row 0, field lable",
        "row 2, field mask_path",
        "row 2, field mask_path",
    ]


def test_a_mask_that_fits_neither_its_box_nor_the_volume_is_refused(tmp_path):
    row = replica(tmp_path)
    row[BOX_FIELD][0][0] = [2, 3, 1, 6, 8, 3]  # as if the last voxel were told, and not one past it
    (record,) = load_manifest(write_json(tmp_path / "m.json", [row]))
    with pytest.raises(VolumeError, match=r"liver\.npy: has shape \(5, 6, 3\); .*one past the last"):
        read_source(record.mask_source(0), geometry_of(record))
