"""What is answered without looking, against counts by hand and boxes whose mean is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.manifest import InstructionRecord
from evaluation.learning.blind_answers import likely_option, mean_masks, same_report, same_words
from evaluation.metrics.text import token_f1
from tests.boxes import write_box


def known(question: str, answer: str, **more) -> InstructionRecord:
    return InstructionRecord(**{"image_path": ["ct"], **more}, question=question, answer=answer)


def test_the_answer_that_fits_the_same_words_best() -> None:
    train = [known("Where?", a) for a in ("left lung", "right lung", "right lung", "liver")] + [known("Many?", "two")]
    # "right lung" shares one of two words with "left lung": 1/2 + 2 of 4; "left lung" has 1 + 1/2 + 1/2
    records = [{"question": "Where?", "answer": a} for a in ("left lung", "liver", "right lung")]
    assert same_words(train, records, token_f1) == pytest.approx((0.5 + 0 + 1) / 3)
    assert same_words(train, [{"question": "Size?", "answer": "right lung"}], token_f1) == 1.0  # said most often
    assert same_words(train, [], token_f1) is None and same_words([], records, token_f1) is None


def test_the_option_that_is_right_where_it_is_offered() -> None:
    rows = [("Left", {"A": "Left", "B": "Both"}), ("Right", {"A": "Left", "B": "Right"}), ("Both", {"A": "Both"})]
    train = [known("?", f"{answer}.", choices=choices) for answer, choices in rows]  # left 1/2, right 1, both 1/2
    asked = [{"answer": "Right.", "choices": {"A": "Left", "B": "Right"}}]
    asked.append({"answer": "Left.", "choices": {"A": "Left", "B": "Right"}})
    assert likely_option(train, asked) == 0.5
    assert likely_option(train, []) is None and likely_option([], asked) is None


def test_one_report_for_everyone_says_the_findings_that_serve_the_training_set() -> None:
    texts = ["There is emphysema."] * 3 + ["There is emphysema. There is cardiomegaly."]
    train = [known("?", text) for text in texts]  # emphysema alone: F1 8/9; with cardiomegaly 10/13
    records = [{"answer": "There is emphysema."}, {"answer": "There is cardiomegaly."}]
    assert same_report(train, records) == pytest.approx(2 * 1 / (2 + 2))
    assert same_report([], records) is None


def test_masks_lie_where_most_training_masks_do(tmp_path: Path) -> None:
    train = []
    for name, size, low in (("a", 12, 2), ("b", 24, 2), ("c", 12, 4)):  # of any size; two of three from 2/12
        ct, labels = write_box(tmp_path, name, size, low)
        mask = {"labels": ["liver"], "mask_path": labels, "mask_values": {"liver": 5}}
        train.append(known("Where is the liver?", "<SEG>", task="segmentation", image_path=[ct], **mask))
    ct, labels = write_box(tmp_path, "d", 24, 3)
    entries = [{"label": name, "truth_path": labels, "truth_values": 5} for name in ("liver", "lung nodule")]
    records = [{"image_path": [ct], "segmentation": entries}]
    # a share of 2/3 answers [2, 6): Dice 1, 1, 1/2; of 1/3 [2, 8): 0.8 each.  The truth is [3, 7): 3 of 4
    assert mean_masks(train, records, {"liver"}) == pytest.approx(0.75)
    assert mean_masks([], records, {"liver"}) is None


def test_air_around_training_masks_is_cropped_off_by_what_a_row_adds_to_its_file(tmp_path: Path) -> None:
    paths = [write_box(tmp_path, "a", 24, 2, air=12, stored=1000.0), write_box(tmp_path, "b", 12, 2)]
    (ct, labels), (asked, truth) = paths
    mask = {"labels": ["liver"], "mask_path": labels, "mask_values": {"liver": 5}, "hu_offset": -1000.0}
    train = [known("Where is the liver?", "<SEG>", task="segmentation", image_path=[ct], **mask)]
    entries = [{"label": "liver", "truth_path": truth, "truth_values": 5}]
    assert mean_masks(train, [{"image_path": [asked], "segmentation": entries}], {"liver"}) == 1.0
