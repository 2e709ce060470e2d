"""Splits by patient: drawn the same everywhere, official ones kept, nobody in two."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.prepare.case import Case
from datasets.prepare.data_set import DataSet
from datasets.prepare.sat_ds_splits import split_file, with_sat_ds_split
from datasets.prepare.splits import Elsewhere, assign, patient_hash


def cases(splits, volumes=1, first=0):
    """Patients `first`, `first` + 1, ... with these splits."""
    return [
        Case(f"{patient}_{volume}", str(patient), Path(f"{patient}_{volume}.nii.gz"), split)
        for patient, split in enumerate(splits, first)
        for volume in range(volumes)
    ]


def split_of(assignment):
    found = defaultdict(set)
    for case in assignment.cases:
        found[case.patient].add(case.split)
    return {patient: splits.pop() for patient, splits in found.items() if len(splits) == 1 or pytest.fail(patient)}


def test_drawn_splits_have_their_shares_and_hold_when_patients_are_added():
    few, many = assign(cases([None] * 1000, volumes=2), "a", "pool"), assign(cases([None] * 4000), "b", "pool")
    for drawn, count in ((split_of(few), 1000), (split_of(many), 4000)):
        shares = [sum(split == name for split in drawn.values()) / count for name in ("train", "val", "test")]
        # three standard deviations of a binomial of 1000 and p = 0.1 are 0.028
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert split_of(few).items() <= split_of(many).items(), "the same in every data set of a pool"
    assert split_of(assign(cases([None] * 1000), "a", "other")) != split_of(few)
    assert split_of(assign(cases([None] * 1000), "a", "pool", seed=1)) != split_of(few)
    assert few.not_official == 1000


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_few_patients_still_fill_every_split(count):
    for first in range(0, 400, 10):
        drawn = list(split_of(assign(cases([None] * count, first=first), "a", "a")).values())
        assert (drawn.count("train"), drawn.count("val"), drawn.count("test")) == (count - 2, 1, 1)
        drawn = list(split_of(assign(cases(["train"] * count, first=first), "a", "a")).values())
        assert (drawn.count("train"), drawn.count("val")) == (count - 1, 1)


def test_official_splits_stay_and_validation_comes_from_training():
    given = ["train"] * 500 + ["test"] * 100
    drawn = split_of(assign(cases(given), "a", "a"))
    assert all(drawn[str(patient)] == "test" for patient in range(500, 600))
    assert sum(split == "val" for split in drawn.values()) / 500 == pytest.approx(0.1, abs=0.045)
    assert "test" not in {drawn[str(patient)] for patient in range(500)}
    assert "val" not in split_of(assign(cases(given), "a", "a", val_share=0)).values()
    full = ["train"] * 50 + ["val"] * 5 + ["test"] * 5
    assert list(split_of(assign(cases(full), "a", "a")).values()) == full, "nothing is drawn where val is official"


def test_a_patient_in_two_official_splits_is_left_out_of_the_lesser():
    given = [*cases(["train", "train"], volumes=1), Case("0_b", "0", Path("b"), "test"), Case("1_b", "1", Path("b"))]
    result = assign(given, "a", "a", val_share=0)
    assert split_of(result) == {"0": "test", "1": "train"}
    assert result.excluded == {"0_0": "patient is in test of a"}


def test_patients_of_another_data_set():
    other = {
        patient_hash("pool", "0"): Elsewhere("test", "x"),
        patient_hash("pool", "1"): Elsewhere("train", "x"),
        patient_hash("pool", "2"): Elsewhere("val", "x"),
        patient_hash("pool", "3"): Elsewhere("val", "x"),
    }
    result = assign(cases(["train", "test", "train", None, None]), "a", "pool", elsewhere=other)
    assert result.excluded == {"0_0": "patient is in test of x", "1_0": "patient is in train of x"}
    drawn = split_of(result)
    assert drawn["2"] == "val" and drawn["3"] == "val"


def test_each_set_of_a_collection_has_a_validation_of_its_own():
    given = [
        *(replace(case, tasks=("a",)) for case in cases(["train"] * 6)),
        *(replace(case, tasks=("b",)) for case in cases(["train"] * 4 + ["val"] * 2, first=6)),
        *(replace(case, tasks=("c",)) for case in cases([None] * 6, first=12)),
    ]
    drawn = split_of(assign(given, "all", "all"))
    counts = [Counter(drawn[str(patient)] for patient in range(first, first + 6)) for first in (0, 6, 12)]
    assert counts == [{"train": 5, "val": 1}, {"train": 4, "val": 2}, {"train": 4, "val": 1, "test": 1}]


def test_a_later_run_keeps_what_was_drawn():
    first = split_of(assign(cases([None] * 5), "a", "pool"))
    former = {patient_hash("pool", patient): split for patient, split in first.items()}
    # of two patients another data set, prepared in between, has taken the splits over
    other = {patient_hash("pool", patient): Elsewhere(first[patient], "x") for patient in ("0", "3")}
    again = split_of(assign(cases([None] * 9), "a", "pool", elsewhere=other, former=former))
    assert first.items() <= again.items()
    moved = {patient_hash("pool", "0"): Elsewhere("test" if first["0"] != "test" else "train", "x")}
    assert split_of(assign(cases([None] * 5), "a", "pool", elsewhere=moved, former=former))["0"] != first["0"]


@pytest.fixture
def sat_ds(tmp_path):
    names = {"train": ["Case_00001_0000.nii.gz", "s0002"], "test": ["Case_00003_0000.nii.gz"]}
    (tmp_path / "AbdomenCT1K.json").write_text(json.dumps(names))
    (tmp_path / "CT_ORG.json").write_text(json.dumps(names))
    return tmp_path


def data_set(name, task):
    return DataSet(name, name, lambda *_: [], ("*",), pretraining=(task,))


def test_sat_ds_splits_are_found_by_name_and_read_with_or_without_extensions(sat_ds):
    path = split_file(sat_ds, data_set("abdomenct_1k", "AbdomenCT1K_structure_segmentation"))
    assert path.name == "AbdomenCT1K.json"
    given = [
        Case("Case_00001", "1", Path("Images/Case_00001_0000.nii.gz"), "test"),
        Case("organs_of_2", "2", Path("s0002/ct.nii.gz")),
        Case("Case_00003", "3", Path("Images/Case_00003_0000.nii.gz")),
        Case("Case_00004", "4", Path("Images/Case_00004_0000.nii.gz"), "train"),
    ]
    listed, excluded = with_sat_ds_split(given, path)
    assert {case.id: case.split for case in listed} == {
        "Case_00001": "train",
        "organs_of_2": "train",
        "Case_00003": "test",
    }
    assert excluded == {"Case_00004": "not in SAT-DS's split (AbdomenCT1K.json)"}


def test_bad_sat_ds_splits_are_one_line(sat_ds):
    with pytest.raises(InputError, match=r"no split file of word; call it word\.json"):
        split_file(sat_ds, data_set("word", "WORD_structure_segmentation"))
    with pytest.raises(InputError, match="no such folder"):
        split_file(sat_ds / "nowhere", data_set("word", "WORD_structure_segmentation"))
    with pytest.raises(InputError, match="none of its 3 ids"):
        with_sat_ds_split([Case("x", "x", Path("x.nii.gz"))], sat_ds / "CT_ORG.json")
    (sat_ds / "CT_ORG.json").write_text("[]")
    with pytest.raises(InputError, match="must hold"):
        with_sat_ds_split([Case("x", "x", Path("x.nii.gz"))], sat_ds / "CT_ORG.json")
