"""A mixture file in --manifests stands for the manifests that it names, with its weights."""

from __future__ import annotations

import json

import pytest

from datasets.errors import InputError
from datasets.mixture import load_mixture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ct.nii.gz").touch()
    for name in ("CTRATE_Question_Answer", "M3D_Caption", "mine"):
        rows = [{"question": f"{name}?", "image_path": "ct.nii.gz", "answer": "Yes."}]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_weights_are_those_of_the_file(folder):
    mixture = folder / "mixture.json"
    mixture.write_text(json.dumps({"CTRATE_Question_Answer.json": 0.5, "M3D_Caption.json": 2}))
    records, weights = load_mixture([str(mixture)])
    assert weights == {"CTRATE_Question_Answer": 0.5, "M3D_Caption": 2.0}
    assert {name: [record.text for record in part] for name, part in records.items()} == {
        "CTRATE_Question_Answer": ["CTRATE_Question_Answer?"],
        "M3D_Caption": ["M3D_Caption?"],
    }
    _, weights = load_mixture([str(mixture), f"{folder}/mine.json=3"])
    assert weights == {"CTRATE_Question_Answer": 0.5, "M3D_Caption": 2.0, "mine": 3.0}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"absent.json": 1}, "names absent.json, and .* is no file"),
        ({"mine.json": "much"}, "has a weight for each manifest"),
        ({"mine.json": True}, "has a weight for each manifest"),
        ({"mine.json": -1}, "mixture.json, mine.json: '-1' is not a number of 0 or more"),
        ({}, "must hold a JSON list of records"),
    ],
)
def test_a_bad_mixture_file_is_named(folder, content, words):
    mixture = folder / "mixture.json"
    mixture.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as raised:
        load_mixture([str(mixture)])
    assert str(mixture) in str(raised.value)


def test_a_manifest_with_splits_is_no_mixture(folder):
    path = folder / "splits.json"
    path.write_text(json.dumps({"train": [{"question": "?", "image_path": "ct.nii.gz", "answer": "No."}]}))
    with pytest.raises(InputError, match="holds the splits train"):
        load_mixture([str(path)])
