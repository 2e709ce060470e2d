"""Chance against figures by hand, and boxes whose overlap is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.learning.chance import answers_of_others, masks_of_others, one_option, reports_of_others
from tests.boxes import write_box


def question(patient: str, words: str, answer: str) -> dict:
    return {"patient_id": patient, "question": words, "answer": answer}


def test_a_guess_is_right_as_often_as_there_are_few_options() -> None:
    two, four = {"A": "x", "B": "y"}, dict.fromkeys("ABCD", "x")
    assert one_option([{"choices": two}, {"choices": four}, {"choices": None}]) == pytest.approx(0.375)
    assert one_option([]) is None


def test_answers_are_compared_with_those_of_others_to_the_same_words() -> None:
    records = [
        question("a", "Where?", "left lung"),
        question("b", "Where?", "right lung"),  # shares one of two words with the first
        question("c", "Where?", "left lung"),
        question("a", "Where?", "liver"),  # of the first patient: not compared with its own "left lung"
        question("a", "How many?", "two"),  # asked of nobody else
    ]
    firsts = (0.5 + 1) / 2, (0.5 + 0.5 + 0) / 3, (1 + 0.5 + 0) / 3, (0 + 0) / 2
    assert answers_of_others(records) == pytest.approx(sum(firsts) / 4)
    assert answers_of_others(records[-1:]) is None


def test_reports_are_compared_with_the_next() -> None:
    texts = "There is emphysema.", "There is emphysema. There is cardiomegaly.", "There is cardiomegaly."
    records = [question(str(k), "Report?", text) for k, text in enumerate(texts)]
    # hits 1, 1, 0; said 2, 1, 1; held 1, 2, 1
    assert reports_of_others(records) == pytest.approx(2 * 2 / (4 + 4))
    assert reports_of_others(records[:1]) is None


def box(folder: Path, name: str, size: int, low: int, **more: float) -> dict:
    """A record of a body of `write_box` whose liver is asked for, and a nodule that is not there."""
    ct, labels = write_box(folder, name, size, low, **more)
    return {
        "image_path": [ct],
        "segmentation": [
            {"label": label, "truth_path": labels, "truth_values": values}
            for label, values in (("liver", 5), ("lung nodule", [3, 4]))
        ],
    }


def test_masks_of_the_next_volume_are_stretched_onto_the_grid(tmp_path: Path) -> None:
    records = [box(tmp_path, "a", 24, 2), box(tmp_path, "b", 12, 4), box(tmp_path, "c", 36, 8)]
    # of four twelfths each: a and b share two, b and c none, c and a none
    assert masks_of_others(records, {"liver"}) == pytest.approx(0.5 / 3)
    assert masks_of_others(records[:2], {"liver"}) == pytest.approx(0.5)
    assert masks_of_others(records, {"spleen"}) is None and masks_of_others(records[:1], {"liver"}) is None


def test_air_is_cropped_off_by_what_a_record_adds_to_its_file(tmp_path: Path) -> None:
    more = {"air": 12, "stored": 1000.0}  # air above 0 is a part of the body, where nothing is taken off
    records = [box(tmp_path, "a", 24, 2, **more) | {"hu_offset": -1000.0}, box(tmp_path, "b", 12, 4)]
    assert masks_of_others(records, {"liver"}) == pytest.approx(0.5)  # two of four twelfths, as without that air
