"""Figures by kind of question against counts by hand: the model, blind answers, chance, the shuffled control."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.manifest import InstructionRecord
from evaluation.learning import figures
from evaluation.learning.blind_answers import likely_option_for_words, without_options
from evaluation.learning.by_kind import kind_table, main, score
from evaluation.predictions import write_json
from tests.boxes import write_box

SIDES = {"A": "Left", "B": "Midline", "C": "Right"}
ORDERS = {"A": "Right", "B": "Left", "C": "Midline"}
OUTSIDE = "The liver is not in the field of view."


def listed(choices: dict[str, str]) -> str:
    return "Which side? " + " ".join(f"{option} ({letter})" for letter, option in choices.items())


def known(record_id: str, question: str, answer: str, task: str, **more) -> InstructionRecord:
    return InstructionRecord(
        **{"image_path": ["ct"], "id": record_id, "task": task, **more}, question=question, answer=answer
    )


def answered(record_id: str, question: str, answer: str, task: str, prediction: str, **more) -> dict:
    record = {"labels": [], "segmentation": [], "choices": None, "error": None, "image_path": ["ct"]}
    return {
        **record,
        "id": record_id,
        "task": task,
        "question": question,
        "answer": answer,
        "prediction": prediction,
        **more,
    }


def test_each_kind_has_its_own_line():
    train = [known(f"p{k}/side_0", listed(SIDES), f"{side}.", "multiple_choice", choices=SIDES)
             for k, side in enumerate(("Left", "Left", "Right"))]  # fmt: skip
    train += [known(f"p{k}/apices_0", "Apices?", said, "yes_no") for k, said in enumerate(("Yes.", "Yes.", "No."))]
    train += [known("p0/outside_the_scan_0", "Segment the liver.", OUTSIDE, "segmentation")]
    records = [
        answered("q0/side_0", listed(ORDERS), "Right.", "multiple_choice", "Right.", choices=ORDERS),
        answered("q1/side_0", listed(SIDES), "Left.", "multiple_choice", "Right.", choices=SIDES),
        answered("q0/apices_0", "Apices?", "No.", "yes_no", "No."),
        answered("q1/apices_0", "Apices?", "No.", "yes_no", "No, it does not."),
        answered("q0/outside_the_scan_0", "Segment the liver.", OUTSIDE, "segmentation", OUTSIDE),
        answered("q1/outside_the_scan_0", "Segment the liver.", OUTSIDE, "segmentation", "It is <SEG>."),
    ]
    shuffled = [{**record, "prediction": "Left."} for record in records]
    table = kind_table(train, records, shuffled)
    assert table.columns[2:] == ("Chance", "Blind", "Model", "Shuffled")
    assert [row for row in table.rows] == [
        ("side", "2", "0.333", "0.500", "0.500", "0.500"),  # blind says left, which is right once
        ("apices", "2", "0.500", "0.000", "1.000", "0.000"),
        ("outside the scan", "2", "–", "1.000", "0.500", "0.000"),
    ]
    assert kind_table(train, records, []).rows[0][5] == "–"
    with pytest.raises(InputError, match="--shuffled: has other questions"):
        kind_table(train, records, shuffled[1:])


def test_a_record_without_a_kind_goes_by_its_task():
    records = [answered("phantom_3_open_vqa_1", "Where?", "left lung", "open_vqa", "left lobe")]
    assert kind_table([], records, []).rows == (("open vqa", "1", "–", "–", "0.500", "–"),)


def test_an_option_is_likely_for_its_words_in_any_order():
    """Left is mostly right of the one, right of the other; over both none is."""
    other = {"A": "Right", "B": "Left"}
    train = [known(f"a{k}", "Tumour? Left (A) Right (B)", side, "multiple_choice", choices={"A": "Left", "B": "Right"})
             for k, side in enumerate(("Left", "Left", "Right"))]  # fmt: skip
    train += [known(f"b{k}", "Node? Right (A) Left (B)", side, "multiple_choice", choices=other)
              for k, side in enumerate(("Right", "Right", "Left"))]  # fmt: skip
    asked = [{"question": "Tumour? Right (A) Left (B)", "answer": "Left.", "choices": other},
             {"question": "Node? Right (A) Left (B)", "answer": "Left.", "choices": other}]  # fmt: skip
    assert likely_option_for_words(train, asked) == 0.5
    assert likely_option_for_words(train, asked[:1]) == 1.0
    assert likely_option_for_words([], asked) is None and likely_option_for_words(train, []) is None
    assert without_options("Node? A. Right B. Left", other) == without_options(asked[1]["question"], other) == "Node?"


@pytest.mark.parametrize(("said", "right"), [(OUTSIDE, 1), (OUTSIDE.lower().rstrip("."), 1), ("It is <SEG>.", 0),
                                             (OUTSIDE.replace("liver", "spleen"), 0), ("", 0)])  # fmt: skip
def test_outside_the_scan_is_said_without_a_mask(said: str, right: int):
    assert score(answered("q/outside_0", "?", OUTSIDE, "segmentation", ""), said) == right


def test_masks_have_dice_beside_that_of_the_training_masks(tmp_path: Path):
    """Boxes of four twelfths: one in training at 2, two asked for at 3 and 6 (`tests.boxes`)."""
    ct, labels = write_box(tmp_path, "a", 24, 2)
    masks = {"labels": ["liver"], "mask_path": labels, "mask_values": {"liver": 5}}
    train = [known("p0/segmentation_0", "Where?", "<SEG>", "segmentation", image_path=[ct], **masks)]
    records = []
    for name, low, dice in (("b", 3, 0.9), ("c", 6, None)):
        ct, labels = write_box(tmp_path, name, 24, low)
        entry = {"label": "liver", "truth_path": labels, "truth_values": 5, "dice": dice}
        records.append(
            answered(f"{name}/segmentation_0", "Where?", "<SEG>", "segmentation", "<SEG>", image_path=[ct],
                     labels=["liver"], segmentation=[entry])
        )  # fmt: skip
    # blind: [2, 6) shares three of four twelfths with the first, none with the second; chance: one with each other
    assert kind_table(train, records, []).rows == (("segmentation", "2", "0.250", "0.375", "0.450", "–"),)


def test_the_command_prints_and_writes_the_table(tmp_path: Path, capsys):
    row = {"id": "p0/apices_0", "question": "Apices?", "answer": "Yes.", "task": "yes_no", "image_path": "ct"}
    (tmp_path / "ct").touch()
    (tmp_path / "train.json").write_text(json.dumps([row]))
    write_json([answered("q0/apices_0", "Apices?", "Yes.", "yes_no", "Yes.")], tmp_path / "e" / "predictions.json")
    given = ["--evaluation", str(tmp_path / "e"), "--train", str(tmp_path / "train.json")]
    assert main([*given, "--output", str(tmp_path / "out" / "table.md")]) == 0
    assert "| apices | 1 | 0.500 | 1.000 | 1.000 | – |" in capsys.readouterr().out
    assert "| apices | 1 |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert main([*given, "--picture", str(tmp_path / "masks.png")]) == 2
    assert f"masks.png: {tmp_path / 'e'} asked for no masks; leave it out" in capsys.readouterr().err
    assert main([*given, "--shuffled", str(tmp_path / "none")]) == 2
    assert "predictions.json: no such file" in capsys.readouterr().err


def test_the_best_the_median_and_the_worst_mask_are_drawn(tmp_path: Path, monkeypatch):
    records = []
    for number, low in enumerate((2, 3, 6)):
        ct, labels = write_box(tmp_path, f"p{number}", 24, low)
        entry = {"label": "liver", "truth_path": labels, "truth_values": 5, "dice": 0.3 * number, "mask_path": labels}
        records.append(
            answered(f"p{number}/segmentation_0", "Where?", "<SEG>", "segmentation", "<SEG>", image_path=[ct],
                     labels=["liver"], segmentation=[entry], patient_id=f"p{number}")
        )  # fmt: skip
    write_json(records, tmp_path / "e" / "predictions.json")
    row = {"id": "p0/segmentation_0", "question": "Where?", "answer": "<SEG>", "task": "segmentation"}
    row |= {"image_path": records[0]["image_path"][0], "labels": ["liver"], "mask_values": {"liver": 5}}
    row["mask_path"] = records[0]["segmentation"][0]["truth_path"]
    (tmp_path / "train.json").write_text(json.dumps([row]))
    given = ["--evaluation", str(tmp_path / "e"), "--train", str(tmp_path / "train.json")]
    drawn, draw = [], figures.case_figure
    monkeypatch.setattr(figures, "case_figure", lambda *case: drawn.append(case) or draw(*case))
    assert main([*given, "--picture", str(tmp_path / "masks.png")]) == 0
    assert [title.split(" of ")[0] + title.partition("Dice")[2] for *_, title in drawn] == [
        "Best 0.60 (p2)", "Median 0.30 (p1)", "Worst 0.00 (p0)",
    ]  # fmt: skip
    assert all(truth.any() and np.array_equal(truth, prediction) for _, truth, prediction, *_ in drawn)
    with Image.open(tmp_path / "masks.png") as picture:
        assert picture.height % 3 == 0 and picture.height > 600 and picture.width > 600
