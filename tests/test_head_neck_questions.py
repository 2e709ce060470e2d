"""Questions about head and neck against a body whose sides, sizes and places are known."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.prepare.case import Case, Question
from datasets.prepare.head_neck import dental, levels, lungs, places, sides, structures, volumes
from datasets.prepare.head_neck.ask import ask
from datasets.prepare.head_neck.patient import RIGHT, Patient, read_patient
from tests.head_neck_body import MARGIN, ORGANS, SHAPE, SPACING, body, fill, write_case


def draw() -> random.Random:
    return random.Random(0)


def by_kind(questions: list[Question]) -> dict[str, list[Question]]:
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    return kinds


@pytest.fixture
def patient(tmp_path) -> Patient:
    return read_patient(write_case(tmp_path))


def test_the_left_parotid_lies_left_and_so_does_a_target_in_it(tmp_path):
    """The stored second axis runs to the left: a greater index is further left, and in RAS a smaller one."""
    for organ, side in (("left parotid gland", "Left"), ("right parotid gland", "Right"), ("spinal cord", "Midline")):
        centroid = [(first + last - 1) / 2 for first, last in ORGANS[organ]]
        patient = read_patient(write_case(tmp_path, targets={"PTV70": centroid}))
        assert sides.side_of_target(patient) == side
        np.testing.assert_allclose(patient.targets["PTV70"], patient.centre(organ), atol=1e-6)
    assert patient.centre("left parotid gland")[RIGHT] < patient.centre("right parotid gland")[RIGHT]


def test_a_target_near_the_midline_is_left_out(tmp_path):
    """The midline is stored voxel 24.5, the centre of the cord and of the brainstem."""
    found = []
    for offset_mm in (-11, -8, -5, 5, 8, 11):  # to the left
        target = {"PTV70": [25.0, 24.5 + offset_mm / SPACING[1], 20.0]}
        found.append(sides.side_of_target(read_patient(write_case(tmp_path, targets=target))))
    assert found == ["Right", None, "Midline", "Midline", None, "Left"]
    assert sides.side_of_target(read_patient(write_case(tmp_path, targets={"PTV56": [25.0, 40.0, 20.0]}))) is None


def test_a_question_of_the_side_offers_all_three(tmp_path):
    patient = read_patient(write_case(tmp_path, targets={"PTV70": [20.0, 40.0, 20.0]}))
    (question,) = sides.target_side(patient, draw())
    assert sorted((question.choices or {}).values()) == ["Left", "Midline", "Right"]
    assert question.answer == "Left." and all(f"{c} (" in question.text for c in ("Left", "Midline", "Right"))


def test_every_organ_is_asked_for_once_and_twice_a_pair(patient):
    questions = structures.segmentation(patient, draw())
    singles = [question for question in questions if len(question.labels) == 1]
    pairs = [question for question in questions if len(question.labels) == 2]
    assert [question.labels[0] for question in singles] == list(ORGANS) and len(pairs) == 2
    for question in questions:
        assert question.answer.count("<SEG>") == len(question.labels)
        assert all(label in question.text for label in question.labels)
    for question in pairs:
        one, other = question.labels
        assert one != other and question.answer == f"The {one} is <SEG> and the {other} is <SEG>."


@pytest.mark.parametrize(
    ("volume_ml", "depth_mm", "inside", "outside"),
    [
        (0.0, 0.0, ("left lung", "right lung"), ("heart", "right lung base", "liver")),
        (12.0, 20.0, ("heart", "left lung", "right lung base"), ("liver",)),  # a little air: not clear
        (60.0, 30.0, ("left lung",), ("heart", "right lung base", "liver")),
        (400.0, 90.0, ("heart", "left lung"), ("left lung base", "urinary bladder")),
        (900.0, 140.0, ("heart", "right lung base"), ("liver", "spleen")),
        (1500.0, 160.0, ("heart", "right lung base", "liver"), ()),
    ],
)
def test_only_what_cannot_be_in_view_is_said_to_be_outside(volume_ml, depth_mm, inside, outside):
    found = structures.structures_outside(lungs.Lungs(volume_ml, depth_mm))
    assert set(outside) <= set(found) and not set(inside) & set(found)
    for question in structures.outside(lungs.Lungs(volume_ml, depth_mm), draw()):
        assert question.answer.endswith("is not in the field of view.") and not question.labels
        assert "<SEG>" not in question.answer


def test_an_organ_that_was_not_contoured_is_not_said_to_be_absent(tmp_path):
    organs = {name: ORGANS[name] for name in ("spinal cord", "mandible")}
    questions = ask(write_case(tmp_path, organs=organs, targets={"PTV70": [20.0, 40.0, 20.0]}))
    said = " ".join(f"{question.text} {question.answer}" for question in by_kind(questions)["outside_the_scan"])
    assert not any(organ in said for organ in ORGANS)
    assert {label for question in questions for label in question.labels} == set(organs)


def test_lung_is_told_from_a_trachea_and_its_depth_is_measured(tmp_path):
    hu = fill(body(), ((14, 17), (24, 27), (30, 55)), -1000)  # a trachea down to the lowest slice
    without = lungs.find_lungs(read_patient(write_case(tmp_path, hu)))
    assert without.seen is False and without.volume_ml == 0
    lung = ((12, 28), (8, 20), (45, 55))
    found = lungs.find_lungs(read_patient(write_case(tmp_path, fill(hu, lung, -800))))
    assert found.volume_ml == pytest.approx(16 * 12 * 10 * 4 * 4 * 2.5 / 1000) and found.depth_mm == 25.0
    assert [question.answer for question in lungs.lung_apices(found, draw())] == ["Yes."]
    assert [question.answer for question in lungs.lung_apices(without, draw())] == ["No."]
    assert lungs.lung_apices(lungs.Lungs(12.0, 10.0), draw()) == []


def test_levels_are_shares_of_the_height_without_air(patient, monkeypatch):
    """The mandible fills stored slices 20 to 27 of 5 to 54: from 54 % to 70 % of the height, counted from below."""
    assert patient.box == ((MARGIN,) * 3, (SHAPE[1] - 2 * MARGIN, SHAPE[0] - 2 * MARGIN, SHAPE[2] - 2 * MARGIN))
    answers = {}
    for level in (50, 53, 54, 58, 66, 69, 71, 74):
        monkeypatch.setattr(levels, "OF_LOWER_END", {"mandible": level})
        monkeypatch.setattr(levels, "OF_UPPER_END", {"mandible": level})
        asked = {question.text.split()[4]: question.answer for question in levels.levels(patient)}
        answers[level] = asked.get("below"), asked.get("above")
    assert answers == {
        50: ("No.", "Yes."), 53: (None, "Yes."), 54: (None, "Yes."), 58: ("Yes.", "Yes."),
        66: ("Yes.", "Yes."), 69: ("Yes.", None), 71: ("Yes.", None), 74: ("Yes.", "No."),
    }  # fmt: skip


def test_which_organ_reaches_lower(patient):
    """The left parotid ends four slices below the right one, the cord four below the oesophagus."""
    for seed in range(6):
        for question in levels.lower(patient, random.Random(seed)):
            lower = question.text.startswith(("Does the left parotid gland", "Does the spinal cord"))
            assert question.answer == ("Yes." if lower else "No."), question.text


def test_volumes_are_those_of_the_voxels(tmp_path, patient):
    """The mandible has 4 x 21 x 8 voxels of 0.04 ml: 26.88 ml."""
    asked = {question.text.split(" <")[0].split("?")[0]: question for question in volumes.volumes(patient, draw())}
    mandible = asked["How large is the mandible"]
    assert mandible.answer == "below 56 ml." and set((mandible.choices or {}).values()) == set(
        volumes.ranges("mandible")
    )
    wide = {**ORGANS, "mandible": ((8, 13), (15, 36), (20, 36))}  # 67.2 ml is within 5 % of 70
    near = volumes.volumes(read_patient(write_case(tmp_path, organs=wide)), draw())
    assert not any("mandible" in question.text for question in near)


def test_an_organ_lies_at_the_place_that_is_named(patient, monkeypatch):
    """Stored voxel (20, 38, 20), of the left parotid: 7 of 40 from the left, 14 of 30 from the back, 34 of 50 up."""
    place = (16, 48, 69)
    assert places.voxel_at(patient, place) == (SHAPE[1] - 1 - 38, SHAPE[0] - 1 - 20, SHAPE[2] - 1 - 20)
    pair = ("left parotid gland", "mandible")
    monkeypatch.setattr(places, "PLACES", {pair: (place, (50, 90, 50)), ("larynx", "esophagus"): ()})
    (question,) = places.places(patient, draw())
    assert question.answer == "left parotid gland." and "16 % from the left, 48 % from the back" in question.text
    assert set(pair) < set((question.choices or {}).values()) and len(question.choices or {}) == 3


def test_metal_is_counted_in_the_slices_of_the_mandible(tmp_path):
    above = fill(body(), ((10, 20), (20, 30), (8, 12)), 3000)  # 16 ml, but not at the mandible
    assert dental.metal_ml(read_patient(write_case(tmp_path, above))) == 0
    teeth = fill(body(), ((8, 13), (16, 31), (22, 26)), 3000)
    patient = read_patient(write_case(tmp_path, teeth))
    assert dental.metal_ml(patient) == pytest.approx(5 * 15 * 4 * 0.04)
    assert [question.answer for question in dental.dental_metal(patient, draw())] == ["Yes."]
    clean = read_patient(write_case(tmp_path))
    assert [question.answer for question in dental.dental_metal(clean, draw())] == ["No."]
    few = fill(body(), ((9, 13), (16, 21), (22, 26)), 3000)  # 3.2 ml, of which 0.8 stay
    some = fill(few, ((9, 12), (16, 21), (22, 26)), 1000)
    assert dental.dental_metal(read_patient(write_case(tmp_path, some)), draw()) == []
    organs = {"spinal cord": ORGANS["spinal cord"]}
    assert dental.dental_metal(read_patient(write_case(tmp_path, teeth, organs)), draw()) == []


def test_questions_depend_on_seed_and_case_alone(tmp_path):
    case = write_case(tmp_path, targets={"PTV70": [20.0, 40.0, 20.0]})
    assert ask(case, 0) == ask(case, 0) != ask(case, 1)
    assert ask(replace(case, id="pt_2"), 0) != ask(case, 0)
    for question in ask(case):
        if question.choices:
            assert question.answer.removesuffix(".") in question.choices.values()


def test_training_asks_in_all_wordings_and_else_in_one(tmp_path):
    case = write_case(tmp_path, targets={"PTV70": [20.0, 40.0, 20.0]})
    in_training, held_out = by_kind(ask(case)), by_kind(ask(replace(case, split="val")))
    for kind in ("target_side", "lung_apices", "dental_metal"):
        assert len({question.text for question in in_training[kind]}) == 3 and len(held_out[kind]) == 1
        assert {question.answer for question in in_training[kind]} == {held_out[kind][0].answer}
    assert len(in_training["reaches_level"]) == len(held_out["reaches_level"])


def test_a_listed_organ_without_a_voxel_is_refused(tmp_path):
    case: Case = write_case(tmp_path, organs={"mandible": ORGANS["mandible"], "larynx": ((0, 0), (0, 0), (0, 0))})
    with pytest.raises(InputError, match=r"pt_1_organs\.nii\.gz: no voxel of larynx"):
        read_patient(case)
