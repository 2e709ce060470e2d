"""Manifests turned from the published form into ours and back: equal records, equal masks, nothing half-written."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from datasets.manifest import load_manifest
from datasets.prepare.convert import main
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.record_masks import read_source
from datasets.vocabulary import diseases_of
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_mask, read_volume
from tests.ct_files import random_affine, write_nifti
from tests.published_files import BOX_FIELD, SHAPE, mask_by_loops, replica, write_json, write_lines
from tests.test_published_pretraining import ORGANS, line


def run(*arguments):
    return main([str(argument) for argument in arguments])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def plain(value):
    """Records as plain values with paths written in one way, but for what comes from a file's name."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("id", "patient_id")}
    return os.path.normpath(value) if isinstance(value, str) and os.path.isabs(value) else value


def same(first, second):
    return plain([record.model_dump() for record in first]) == plain([record.model_dump() for record in second])


@pytest.fixture
def published(tmp_path):
    segmentation = replica(tmp_path)
    image = {"image_path": ["ct.npy"], "question": segmentation["question"]}
    rows = [
        segmentation,
        {**segmentation, "answer": "<SEG>, <SEG>, <SEG>"},
        {**image, "answer": "Clear.", "id": "text", "patient_id": "p"},
        {**image, "answer": "<disease_confidence> " * 16, "targets": [1, 0] * 8},
    ]
    return write_json(tmp_path / "published.json", rows)


def test_published_instructions_become_ours_and_come_back(published, tmp_path, capsys):
    ours, back = tmp_path / "other" / "ours.json", tmp_path / "back" / "published.json"
    assert run(published, ours, "--to", "ours") == 0 and "wrote 4 records" in capsys.readouterr().out
    rows = read(ours)
    assert not any(BOX_FIELD in row or "choose_labels" in row for row in rows)
    assert rows[0]["labels"] == [["liver", "spleen", "pancreas"]] and rows[1]["labels"] == [
        "liver",
        "spleen",
        "pancreas",
    ]
    assert rows[0]["mask_path"][0][:2] == ["../masks/0001/liver.npy", "../masks/0001/spleen.npy"]
    assert rows[3]["targets"] == dict(zip(diseases_of("RadChestCT"), [1, 0] * 8, strict=True))
    given, converted = load_manifest(published), load_manifest(ours)
    assert same(given, converted)
    geometry = VolumeGeometry.of_source("ct.npy", SHAPE, np.eye(4))
    union = mask_by_loops(tmp_path, "liver") | mask_by_loops(tmp_path, "spleen")
    np.testing.assert_array_equal(read_source(converted[0].mask_source(0), geometry), union)
    assert run(ours, back, "--to", "published") == 0
    assert same(given, load_manifest(back)) and sorted(path.name for path in back.parent.iterdir()) == [back.name]
    expected = [{**row, "image_path": ["../ct.npy"]} for row in read(published)]
    for row in expected[:2]:
        row["mask_path"] = ["../masks/0001"]
    assert read(back) == expected


def test_our_masks_are_written_in_boxes_of_the_stored_array(tmp_path):
    rng = np.random.default_rng(2)
    labels = np.zeros((9, 8, 7), np.uint8)
    labels[1:5, 2:6, 3:7] = rng.integers(0, 4, (4, 4, 4))
    affine = random_affine("LPI", (1, 1, 2), rng)
    write_nifti(tmp_path / "ct.nii.gz", rng.integers(-9, 99, labels.shape).astype(np.int16), affine)
    write_nifti(tmp_path / "all.nii.gz", labels, affine)
    write_nifti(tmp_path / "one.nii.gz", (labels == 1).astype(np.uint8), affine)
    row = {"question": "Where?", "image_path": "ct.nii.gz"}
    values = {"mask_path": "all.nii.gz", "mask_values": {"a": 1, "b": [2, 3], "none": 9}}
    rows = [
        {**row, "answer": "<SEG>", "labels": ["a"], "mask_path": ["one.nii.gz"]},
        {**row, "answer": "<SEG> <SEG> <SEG>", "labels": ["a", "b", "none"], **values},
        {**row, "answer": "<SEG>", "labels": [["a", "b"]], **values},
        {**row, "answer": "No mask."},
    ]
    target = tmp_path / "far" / "published.json"
    assert run(write_json(tmp_path / "ours.json", rows), target, "--to", "published") == 0
    given, converted = load_manifest(tmp_path / "ours.json"), load_manifest(target)
    _, geometry = read_volume(tmp_path / "ct.nii.gz")
    for before, after in zip(given, converted, strict=True):
        assert (before.labels, before.structures, before.answer) == (after.labels, after.structures, after.answer)
        for number in range(len(before.labels)):
            mask = read_source(after.mask_source(number), geometry)
            np.testing.assert_array_equal(mask, read_source(before.mask_source(number), geometry))
    parts = read_mask(tmp_path / "all.nii.gz", geometry, [[1, 2, 3]])[0]
    np.testing.assert_array_equal(read_source(converted[2].mask_source(0), geometry), parts)
    assert read(target)[1][BOX_FIELD][0][2] is False
    stored = np.load(target.parent / "published_masks" / "0" / "a.npy")
    y1, x1, z1, y2, x2, z2 = read(target)[0][BOX_FIELD][0][0]
    np.testing.assert_array_equal(stored, (labels == 1)[y1:y2, x1:x2, z1:z2])
    assert run(target, tmp_path / "again.json", "--to", "ours") == 0
    assert same(load_manifest(tmp_path / "again.json"), converted)


def test_pretraining_files_with_all_splits_become_a_file_a_split_and_come_back(tmp_path):
    (tmp_path / "ct.npy").touch()
    names = ("RadGenome_disease_classification", "CC-CCII_disease_classification", "CTRATE_image_text")
    vector = [1, 0, 0] * 6
    contents = [
        {
            "train": [{"img_path": "ct.npy", "disease_label": vector}],
            "test": [{"img_path": "ct.npy", "disease_label": vector}],
        },
        {"train": [{"img_path": "ct.npy", "disease_label": number} for number in range(3)]},
        {
            "train": [{"img_path": "ct.npy", "answer": "Clear.", "patient_id": "p"}],
            "test": [{"img_path": "ct.npy", "answer": "x"}],
        },
    ]
    (tmp_path / "ours").mkdir()
    for name, content in zip(names, contents, strict=True):
        source, ours = write_json(tmp_path / f"{name}.json", content), tmp_path / "ours" / f"{name}_{{split}}.json"
        assert run(source, ours, "--to", "ours") == 0
        for split, rows in content.items():
            written = read(tmp_path / "ours" / f"{name}_{split}.json")
            assert len(written) == len(rows) and all("img_path" not in row for row in written)
        (tmp_path / "back").mkdir(exist_ok=True)
        assert run(ours, tmp_path / "back" / f"{name}.json", "--to", "published") == 0
        moved = {split: [{**row, "img_path": "../ct.npy"} for row in rows] for split, rows in content.items()}
        assert read(tmp_path / "back" / f"{name}.json") == moved
    assert read(tmp_path / "ours" / f"{names[0]}_test.json")[0]["disease_label"]["medical material"] == 1


def test_lines_of_sat_ds_become_ours_and_come_back(tmp_path):
    replica(tmp_path)
    source = write_lines(tmp_path / "CTORG_train.jsonl", [line(), line(patient_id="q")])
    ours, back = tmp_path / "a" / "CTORG_train.json", tmp_path / "CTORG_back.jsonl"
    assert run(source, ours, "--to", "ours") == 0
    records = [load_pretraining_manifest(path, "segmentation", ORGANS) for path in (source, ours)]
    assert same(*records) and [record.patient_id for record in records[1]] == ["p", "q"]
    assert run(ours, back, "--to", "published") == 0
    assert [json.loads(text) for text in back.read_text().splitlines()] == [line(), line(patient_id="q")]


def test_every_fault_is_printed_up_to_a_limit_and_nothing_is_written(published, tmp_path, capsys):
    rows = read(published)
    rows[1]["mask_path"], rows[2]["answr"] = ["gone"], "x"
    source, target = write_json(tmp_path / "bad.json", rows), tmp_path / "new" / "target.json"
    assert run(source, target, "--to", "ours") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(text.startswith(f"error: {source}: row ") for text in lines)
    assert "row 1, field mask_path: no such file" in lines[0]
    assert "row 2, field answr: is not a known field; did you mean 'answer'?" in lines[2]
    write_json(source, [{"question": "?"}] * 50)
    assert run(source, target, "--to", "ours") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[-1] == "error: and 30 more"
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label_set": "CT-RATE", "targets": {"Emphysema": 1}}, "field targets: 'Medical material' is unknown"),
        (
            {"answer": "<SEG> <SEG>", "labels": [["a", "b"], "a"], "mask_path": [["ct.npy", "ct.npy"], "ct.npy"]},
            "field labels: one of 2 masks is a union",
        ),
        ({"answer": "<SEG> <SEG>", "labels": ["a", "a"], "mask_path": ["ct.npy"] * 2}, "field labels: one is asked"),
    ],
)
def test_what_the_published_form_cannot_say_is_refused(tmp_path, change, complaint, capsys):
    (tmp_path / "ct.npy").touch()
    row = {"question": "?", "image_path": "ct.npy", "answer": "x", **change}
    assert run(write_json(tmp_path / "ours.json", [row]), tmp_path / "target.json", "--to", "published") == 2
    assert f"row 0, {complaint}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.npy", "ours.json"]


def test_a_mask_that_cannot_be_read_leaves_nothing_behind(tmp_path, capsys):
    write_nifti(tmp_path / "ct.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    (tmp_path / "mask.nii.gz").write_bytes(b"no mask")
    row = {"question": "?", "image_path": "ct.nii.gz", "answer": "<SEG>", "labels": ["a"], "mask_path": ["mask.nii.gz"]}
    source = write_json(tmp_path / "ours.json", [row])
    assert run(source, tmp_path / "target.json", "--to", "published") == 2
    assert "mask.nii.gz: cannot be read" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz", "mask.nii.gz", "ours.json"]


@pytest.mark.parametrize(
    ("source", "target", "to", "complaint"),
    [
        ("text.json", "text.json", "ours", "is the source itself"),
        ("CTRATE_image_text.json", "CTRATE_image_text_{split}.json", "ours", None),
        ("CTRATE_image_text.json", "one.json", "ours", "put {split} into TARGET's name"),
        ("text.json", "x_{split}.json", "ours", "SOURCE has no splits"),
        ("text_{split}.json", "x_{split}.json", "ours", "no such manifest, for none of the splits"),
        ("classes.json", "x.json", "ours", "name their task by --task"),
        ("whole.json", "x.jsonl", "published", "field image_path: a whole volume"),
        ("whole.json", "x.json", "published", "end TARGET in .jsonl"),
        ("text.json", "ct.npy/x.json", "ours", "cannot be written"),
        ("text.json", "folder", "ours", "is a folder already"),
    ],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, source, target, to, complaint, capsys):
    (tmp_path / "ct.npy").touch()
    (tmp_path / "folder").mkdir()
    image = {"image_path": "ct.npy"}
    write_json(tmp_path / "text.json", [{**image, "report": "x"}])
    write_json(tmp_path / "CTRATE_image_text.json", {"train": [{"img_path": "ct.npy", "answer": "x"}]})
    write_json(tmp_path / "classes.json", [{**image, "disease_label": 1}])
    write_json(tmp_path / "whole.json", [{**image, "labels": ["liver"], "mask_path": ["ct.npy"]}])
    before = sorted(path.name for path in tmp_path.iterdir())
    status = run(tmp_path / source, tmp_path / target, "--to", to)
    said = capsys.readouterr().err
    if complaint is None:
        assert status == 0
        return
    assert status == 2 and complaint in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
