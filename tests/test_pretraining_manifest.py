"""Pretraining manifests: every form of a record, and errors that name file, row and field."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from datasets.catalog import load_records, phantom_tasks
from datasets.errors import InputError
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from datasets.phantom.lesions import LATERAL, LESIONS, lesion_values
from datasets.pretraining_manifest import load_pretraining_manifest

DISEASES = ("Emphysema", "pleural effusion", "lung nodule")
ORGANS = ("liver", "left kidney", "right kidney")


def write(tmp_path, rows, name="some_train.json"):
    for file in ("ct.nii.gz", "liver.nii.gz", "left.nii.gz", "labels.nii.gz"):
        (tmp_path / file).touch()
    path = tmp_path / name
    path.write_text(json.dumps(rows))
    return path


def classification(tmp_path, disease_label, loss):
    path = write(tmp_path, [{"image_path": "ct.nii.gz", "disease_label": disease_label}])
    return load_pretraining_manifest(path, "classification", DISEASES, loss)[0].disease_label


def segmentation(tmp_path, **fields):
    path = write(tmp_path, [{"image_path": "ct.nii.gz", **fields}])
    return load_pretraining_manifest(path, "segmentation", ORGANS)[0]


def test_a_label_comes_as_a_name_a_list_or_a_mapping(tmp_path):
    assert classification(tmp_path, "emphysema", "CE") == "Emphysema"
    assert classification(tmp_path, {"emphysema": 0, "Lung Nodule": 1}, "CE") == "lung nodule"
    listed = {"Emphysema": 0, "pleural effusion": 1, "lung nodule": 1}
    assert classification(tmp_path, ["lung_nodule", "pleural effusion"], "BCE") == listed
    assert classification(tmp_path, [], "BCE") == dict.fromkeys(DISEASES, 0)
    # in a mapping what is left out is unknown, and so is null
    assert classification(tmp_path, {"emphysema": True, "lung nodule": None}, "BCE") == {
        "Emphysema": 1,
        "lung nodule": None,
    }


def test_paths_are_relative_to_the_manifest_and_the_patient_is_the_volume_unless_named(tmp_path):
    rows = [
        {"image_path": "ct.nii.gz", "report": "Clear."},
        {"image_path": "ct.nii.gz", "report": "x", "patient_id": "p"},
    ]
    first, second = load_pretraining_manifest(write(tmp_path, rows), "image_text")
    assert first.image_path == str(tmp_path / "ct.nii.gz") == first.patient_id
    assert second.patient_id == "p" and second.report == "x"


def test_masks_come_as_a_list_a_mapping_or_one_file_with_values(tmp_path):
    files = [str(tmp_path / "liver.nii.gz"), str(tmp_path / "left.nii.gz")]
    listed = segmentation(tmp_path, labels=["Liver", "Left kidney"], mask_path=["liver.nii.gz", "left.nii.gz"])
    assert listed.mask_path == files and listed.values is None and listed.names == ["liver", "left kidney"]
    paths = {"left kidney": "left.nii.gz", "liver": "liver.nii.gz"}
    mapped = segmentation(tmp_path, labels=["liver", "left kidney"], mask_path=paths)
    assert mapped.mask_path == files
    assert segmentation(tmp_path, mask_path=paths).labels == ["left kidney", "liver"]
    one = segmentation(tmp_path, mask_path="labels.nii.gz", mask_values={"liver": 3, "right kidney": [1, 2]})
    assert one.labels == ["liver", "right kidney"] and one.values == [3, [1, 2]]
    assert segmentation(tmp_path, labels=["liver"], mask_path="liver.nii.gz").values is None


def test_preprocessed_crops_have_a_mask_folder_and_a_box_a_label(tmp_path):
    np.save(tmp_path / "crop.npy", np.zeros((1, 4, 5, 6)))
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "liver.npy", np.ones((1, 2, 3)))
    row = {
        "renorm_image": "crop.npy",
        "chwd": [1, 4, 5, 6],
        "renorm_segmentation_dir": "masks",
        "label": ["liver", "left kidney"],
        "renorm_y1x1z1_y2x2z2": [[0, 1, 2, 1, 3, 5], False],
    }
    record = load_pretraining_manifest(write(tmp_path, [row]), "segmentation", ORGANS)[0]
    assert record.preprocessed and record.chwd == (1, 4, 5, 6)
    assert record.boxes == [(0, 1, 2, 1, 3, 5), None]
    assert [path for _, path in record.files()] == [str(tmp_path / "crop.npy"), str(tmp_path / "masks/liver.npy")]
    whole = {**row, "label": ["liver"], "renorm_y1x1z1_y2x2z2": [0, 0, 0, 4, 5, 6]}
    assert load_pretraining_manifest(write(tmp_path, [whole]), "segmentation", ORGANS)[0].boxes == [(0, 0, 0, 4, 5, 6)]
    row["renorm_y1x1z1_y2x2z2"][1] = [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"row 0, field renorm_segmentation_dir: no such file: .*left kidney"):
        load_pretraining_manifest(write(tmp_path, [row]), "segmentation", ORGANS)
    text = {"renorm_image": "crop.npy", "report": "A crop."}
    assert load_pretraining_manifest(write(tmp_path, [text]), "image_text")[0].preprocessed


def test_structures_outside_the_task_are_refused_or_dropped(tmp_path):
    rows = [
        {"image_path": "ct.nii.gz", "labels": ["spleen", "liver"], "mask_path": ["left.nii.gz", "liver.nii.gz"]},
        {"image_path": "ct.nii.gz", "labels": ["spleen"], "mask_path": "left.nii.gz"},
    ]
    path = write(tmp_path, rows)
    with pytest.raises(InputError, match=r"row 0, field labels: 'spleen' is not a label of this task .* \(and 1 more"):
        load_pretraining_manifest(path, "segmentation", ORGANS)
    (record,) = load_pretraining_manifest(path, "segmentation", ORGANS, drop_other_labels=True)
    assert record.labels == ["liver"] and record.mask_path == [str(tmp_path / "liver.nii.gz")]


IMAGE = {"image_path": "ct.nii.gz"}


@pytest.mark.parametrize(
    ("kind", "row", "complaint"),
    [
        ("image_text", {"report": "x"}, "field image_path: Field required"),
        ("image_text", {"image_path": "", "report": "x"}, "field image_path"),
        ("image_text", {"image_path": "no.nii", "report": "x"}, "field image_path: no such file: .*no.nii"),
        ("image_text", {**IMAGE, "report": " "}, "field report: is empty"),
        ("image_text", {**IMAGE, "renorm_image": "a.npy", "report": "x"}, "renorm_image: given beside image_path"),
        ("image_text", {"renorm_image": "ct.nii.gz", "chwd": [1, 2], "report": "x"}, "field chwd"),
        ("image_text", "ct.nii.gz", "Input should be a valid dictionary"),
        ("classification", {**IMAGE, "disease_label": None}, "field disease_label: give a label, a list"),
        ("classification", {**IMAGE, "disease_label": {"Emphysema": 2}}, "field disease_label: give a label"),
        ("classification", {**IMAGE, "disease_label": "gout"}, "disease_label: 'gout' is not a label .*Emphysema"),
        ("segmentation", {**IMAGE, "labels": [], "mask_path": []}, "field labels"),
        ("segmentation", {**IMAGE, "labels": ["liver"]}, "mask_path: give it, or"),
        ("segmentation", {**IMAGE, "labels": ["liver", "Liver"], "mask_path": ["a", "b"]}, "labels: one is listed"),
        ("segmentation", {**IMAGE, "labels": ["liver"], "mask_path": ["a", "b"]}, "mask_path: 2 files for 1 labels"),
        ("segmentation", {**IMAGE, "labels": ["liver"], "mask_path": {"spleen": "a"}}, "mask_path: no file"),
        ("segmentation", {**IMAGE, "labels": list(ORGANS), "mask_path": "labels.nii.gz"}, "mask_values: no value"),
        ("segmentation", {**IMAGE, "labels": ["liver"], "mask_path": ["no.nii"]}, "field mask_path: no such file"),
        (
            "segmentation",
            {"renorm_image": "ct.nii.gz", "labels": ["liver"], "renorm_segmentation_dir": "m",
             "renorm_y1x1z1_y2x2z2": [[1, 2, 3], False]},
            "field renorm_y1x1z1_y2x2z2",
        ),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_by_file_row_and_field(tmp_path, kind, row, complaint):
    good = {
        "image_text": {**IMAGE, "report": "x"},
        "classification": {**IMAGE, "disease_label": ["Emphysema"]},
        "segmentation": {**IMAGE, "labels": ["liver"], "mask_path": "liver.nii.gz"},
    }[kind]
    path = write(tmp_path, [good, row])
    labels = {"classification": DISEASES, "segmentation": ORGANS}.get(kind, ())
    with pytest.raises(InputError, match=rf"some_train\.json: row 1, .*{complaint}"):
        load_pretraining_manifest(path, kind, labels, "BCE")


def test_one_class_a_volume_means_one(tmp_path):
    for value in (["Emphysema", "lung nodule"], {"Emphysema": 0}):
        with pytest.raises(InputError, match=r"row 0, field disease_label: \d labels are present; this task knows"):
            classification(tmp_path, value, "CE")


@pytest.mark.parametrize(
    ("content", "complaint"), [("{", "not a JSON file"), ("{}", "JSON list"), ("[]", "no records")]
)
def test_what_is_no_list_of_records_is_refused(tmp_path, content, complaint):
    path = tmp_path / "some_val.json"
    with pytest.raises(InputError, match=r"some_val\.json: no such manifest"):
        load_pretraining_manifest(path, "image_text")
    path.write_text(content)
    with pytest.raises(InputError, match=rf"some_val\.json: .*{complaint}"):
        load_pretraining_manifest(path, "image_text")


def test_the_manifests_of_phantoms_are_valid(tmp_path):
    case = CaseOptions(in_plane=(5.0, 5.0), between=(8.0, 8.0), prevalence=0.9)
    truths = write_dataset(DatasetOptions(tmp_path, 2, split=(1.0, 0.0, 0.0), case=case))
    records = load_records(phantom_tasks(tmp_path))
    assert {name: len(rows) for name, rows in records.items()} == {
        "phantom_image_text": 2,
        "phantom_classification": 2,
        "phantom_detail_classification": 2,
        "phantom_segmentation": 2,
        "phantom_lesion_segmentation": 2,
    }
    for record, truth in zip(records["phantom_classification"], truths, strict=True):
        assert record.disease_label == {name.lower(): value for name, value in truth["targets"].items()}
    for record, truth in zip(records["phantom_lesion_segmentation"], truths, strict=True):
        voxels = np.asarray(nib.load(tmp_path / truth["lesions_path"]).dataobj)
        whole = set(record.names) & {name.lower() for name in LESIONS}
        painted = {name.lower() for name in LESIONS if np.isin(voxels, lesion_values(name)).any()}
        absent = {name.lower() for name, present in truth["targets"].items() if not present}
        assert not painted & absent and absent <= whole <= painted | absent
        large = {f["name"].lower() for f in truth["findings"] if f["volume_ml"] >= 0.3 or f["name"] == "Cardiomegaly"}
        assert len(large) > 3 and whole & painted == large
        parts = {name for name in set(record.names) - whole if np.isin(voxels, record.mask_values[name]).any()}
        assert len(parts) > 3
        for finding in truth["findings"]:
            if finding["name"] in LATERAL and finding["side"] != "both":
                other = {"left": "right", "right": "left"}[finding["side"]]
                assert f"{other} {finding['name'].lower()}" not in parts
