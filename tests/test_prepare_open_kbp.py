"""OpenKBP as it is: the contoured organs of every patient, on the right side of the body."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from datasets.label_descriptions import describe, has_side
from datasets.prepare.sets import open_kbp
from datasets.volume.loading import read_mask, read_volume
from tests.shared_data import shared_path
from tests.text_set_checks import problems_of, read_set

(OPEN_KBP,) = open_kbp.DATA_SETS


@pytest.fixture
def folder():
    return shared_path("data", "open_kbp")


def centres(case):
    """By organ where its middle lies, in RAS millimetres."""
    _, geometry = read_volume(case.image)
    masks = read_mask(next(iter(case.masks.values())).files[0], geometry, [list(m.values) for m in case.masks.values()])
    assert masks.any(axis=(1, 2, 3)).all(), "an organ that was contoured has no voxel"
    return {
        label: (np.asarray(geometry.affine) @ [*np.argwhere(mask).mean(axis=0), 1])[:3]
        for label, mask in zip(case.masks, masks, strict=True)
    }


def test_every_patient_has_the_organs_that_were_contoured(folder):
    cases, findings = read_set(OPEN_KBP, folder)
    assert findings.problems == []
    truth = json.loads((folder / "patients.json").read_text())
    organs = {row["patient"]: row["organs"] for part in ("train", "validation") for row in truth[part]}
    assert {case.id for case in cases} == set(organs)
    for case in cases:
        assert len(case.masks) == len(organs[case.id])
        assert {mask.values for mask in case.masks.values()} == {(truth["mask_values"][o],) for o in organs[case.id]}
    assert sum(case.split == "train" for case in cases) == 170
    assert sum(case.split == "val" for case in cases) == 33


def test_sides_and_heights_are_those_of_the_body(folder):
    """In RAS the right parotid has the greater x, the mandible lies before the cord, the brainstem above the larynx."""
    cases, _ = read_set(OPEN_KBP, folder)
    full = [case for case in cases if len(case.masks) == 7]
    for case in full[:2] + full[-1:]:
        at = centres(case)
        assert at["right parotid gland"][0] > at["left parotid gland"][0] + 50
        assert at["mandible"][1] > at["spinal cord"][1] + 20
        assert at["brainstem"][2] > at["larynx"][2] + 40


def test_labels_are_described_and_sides_are_known():
    assert all(describe(label) for label in open_kbp.ORGANS.values())
    assert [label for label in open_kbp.ORGANS.values() if has_side(label)] == [
        "right parotid gland", "left parotid gland"
    ]  # fmt: skip


def test_faults_of_the_list_are_listed_at_once(folder, tmp_path):
    patients = json.loads((folder / "patients.json").read_text())
    patients["train"] = patients["train"][:3]
    patients["validation"] = [dict(patients["train"][0])]
    patients["train"][1]["organs"] = ["Brainstem", "LeftParotyd"]
    patients["train"][2] |= {"organs": [], "patient": 3}
    (tmp_path / "patients.json").write_text(json.dumps(patients))
    problems = problems_of(OPEN_KBP, tmp_path)
    for pattern in (
        r"train, item 1 \(from 0\), field organs: 'LeftParotyd' is not .* did you mean 'LeftParotid'\?",
        r"train, item 2 \(from 0\), field patient: is missing, or no str",
        r"validation, item 0 \(from 0\): pt_1 is listed twice; keep one",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 3
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert "patients.json: is missing" in problems_of(OPEN_KBP, tmp_path)[0]
