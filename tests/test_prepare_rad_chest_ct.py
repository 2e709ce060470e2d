"""RadChestCT against a replica: 16 labels from columns by location, official splits, and its axes by voxels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datasets.prepare.sets import rad_chest_ct
from datasets.vocabulary import diseases_of
from datasets.volume.loading import read_volume
from tests.replicas import chest_text
from tests.text_set_checks import assert_true, assert_voxels, problems_of, read_set

(DATA_SET,) = rad_chest_ct.DATA_SETS


@pytest.fixture
def source(tmp_path):
    return tmp_path, chest_text.rad_chest_ct(tmp_path)


def test_every_label_split_and_patient_is_true(source):
    folder, truth = source
    cases, findings = read_set(DATA_SET, folder)
    assert_true(cases, truth, findings)
    assert all(list(case.classes) == diseases_of("RadChestCT") for case in cases)
    assert any("medical material" in line and "not published" in line for line in findings.warnings)
    assert any("1 of 9 volumes with labels are not here" in line for line in findings.warnings)


def test_volumes_are_in_true_ras(source):
    """The liver lies on the right, at high x, and the spleen on the left."""
    folder, truth = source
    cases, _ = read_set(DATA_SET, folder)
    assert_voxels(cases, truth)
    array, geometry = read_volume(cases[0].image)
    masks = truth.cases[cases[0].id].masks
    liver, spleen = ({*array[0][masks[name]]} for name in ("liver", "spleen"))
    assert (liver, spleen) == ({20.0}, {22.0})
    x = {name: np.argwhere(array[0] == value)[:, 0].mean() for name, value in (("liver", 20), ("spleen", 22))}
    right = {name: (np.asarray(geometry.affine) @ [place, 0, 0, 1])[0] for name, place in x.items()}
    assert right["liver"] > right["spleen"]


def test_medical_material_is_what_the_setting_says(source):
    cases, findings = read_set(DATA_SET, source[0], medical_material="hardware; catheter_or_port")
    found = {case.id: case.classes["medical material"] for case in cases}
    assert [id for id, value in found.items() if value] == ["trn00004", "tst00001"]
    assert not any("medical material" in line for line in findings.warnings)


def test_shares_are_compared_with_the_published_weights(source):
    _, findings = read_set(DATA_SET, source[0])
    shares = findings.facts["share of positives (RadChestCT)"]
    assert shares["medical material"] == {"found": round(3 / 9, 3), "published": round(1 / 1.93, 3)}
    assert shares["lung nodule"]["found"] == round(2 / 9, 3)


def test_faults_are_listed_at_once(source):
    folder, _ = source
    train, valid, test = (
        folder / f"img{part}_Abnormality_and_Location_Labels.csv" for part in ("train", "valid", "test")
    )
    train.write_text(train.read_text().replace("cardiomegaly*", "cardiomegali*"))
    valid.write_text(valid.read_text().replace("\nval00002", "\nval00001").replace(",1", ",yes"))
    test.write_text(test.read_text().replace("NoteAcc_DEID", "Accession"))
    problems = problems_of(DATA_SET, folder)
    for pattern in (
        r"imgtrain\S+: has no column of the abnormality 'cardiomegaly' \(cardiomegaly\*<location>\); did you mean",
        r"imgvalid\S+: row 3: val00001 was already given by row 2; keep one",
        r"imgvalid\S+: row 2, column fibrosis\*left_lower: 'yes' is not 0 or 1",
        r"imgtest\S+: has no column 'NoteAcc_DEID'",
    ):
        assert sum(bool(re.search(pattern, line)) for line in problems) == 1, (pattern, problems)
    assert len(problems) == 4


def test_half_a_download_is_named(source):
    folder, _ = source
    (folder / "imgvalid_Abnormality_and_Location_Labels.csv").unlink()
    volume = next(folder.rglob("trn00001.npz"))
    np.savez(volume, data=np.zeros((3, 3, 3)))
    assert sorted(line.rpartition("/")[2] for line in problems_of(DATA_SET, folder)) == [
        "imgvalid_Abnormality_and_Location_Labels.csv: is missing; download it",
        "trn00001.npz: holds no array ct; download it again",
    ]


def test_a_device_that_no_table_knows_is_a_problem_only_if_asked_for(source):
    problems = problems_of(DATA_SET, source[0], medical_material="hardware;stents")
    assert len(problems) == 4 and all("'stents'" in line and "'stent'" in line for line in problems[:3])


def test_without_metadata_each_volume_is_a_patient(source):
    (source[0] / "CT_Scan_Metadata_Complete_35747.csv").unlink()
    cases, findings = read_set(DATA_SET, source[0])
    assert [case.patient for case in cases] == [case.id for case in cases]
    assert any("each volume counts as a patient" in line for line in findings.warnings)


def test_an_empty_folder_says_what_is_missing(tmp_path):
    problems = problems_of(DATA_SET, tmp_path)
    assert len(problems) == 2 and "no .npz volume" in problems[0]
