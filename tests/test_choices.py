"""Parsing of letters and yes/no from free text, sentence by sentence, and the accuracy that follows."""

from __future__ import annotations

import pytest

from evaluation.metrics.choices import multiple_choice_metrics, parse_letter, parse_yes_no, yes_no_metrics

CHOICES = {"A": "Left lung", "B": "Right lung", "C": "Left lung nodule", "D": "A hernia"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("B.", "B"),
        ("B. Right lung", "B"),
        ("b) right lung", "B"),
        ("B: it is on the right", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is: (b)", "B"),
        ("Answer: B", "B"),
        ("I choose option C because of the nodule", "C"),
        ("right lung", "B"),
        ("Right lung.", "B"),
        ("It lies in the right lung", "B"),
        ("It is a left lung nodule", "C"),  # the longer choice holds the shorter
        ("I would say D", "D"),
        ("A hernia", "D"),  # the article is no letter
        ("A hernia is seen", "D"),
        ("A", "A"),
        ("A.", "A"),
        ("B. Left lung", "B"),  # the letter that is stated counts, not the text behind it
        ("", None),
        ("E", None),  # no such choice
        ("I cannot tell", None),
        ("A mass is seen", None),
        ("A or B", None),
        ("A, B", None),
        ("The answer is A. The answer is B.", None),
        ("left lung or right lung", None),
        ("Both A and C", None),
        ("Vitamin B12 is low", None),
    ],
)
def test_parse_letter(text: str, letter: str | None) -> None:
    assert parse_letter(text, CHOICES) == letter


def test_parse_letter_without_choices() -> None:
    assert parse_letter("E") == "E" and parse_letter("F") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("YES, there is an effusion", "yes"),
        ("No", "no"),
        ("No, there is none.", "no"),
        ("No effusion is seen", "no"),
        ("False", "no"),
        ("The answer is yes.", "yes"),
        ("Answer: no", "no"),
        ("I would say yes.", "yes"),
        ("There is no effusion", None),
        ("There is an effusion", None),
        ("yes or no", None),
        ("Yes and no", None),
        ("Nodule", None),
        ("Yesterday's scan", None),
        ("", None),
    ],
)
def test_parse_yes_no(text: str, answer: str | None) -> None:
    assert parse_yes_no(text) == answer


def test_unparsed_answers_count_as_wrong_and_are_reported() -> None:
    result = multiple_choice_metrics(
        ["B", "I cannot tell", "A"], ["B. Right lung", "A", "b"], [CHOICES] * 3, resamples=50
    )
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3) and result["unparsed"] == 1
    assert "1 of 3" in result["notes"][0]
    yes_no = yes_no_metrics(["Yes, there is", "maybe", "No"], ["yes", "no", "No."], ["p", "p", "q"], resamples=50)
    assert yes_no["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3) and yes_no["unparsed"] == 1
    assert yes_no["metrics"]["accuracy"]["patients"] == 2


def test_references_that_cannot_be_parsed_are_left_out_and_said() -> None:
    result = yes_no_metrics(["Yes", "Yes"], ["yes", "perhaps"], resamples=10)
    assert result["metrics"]["accuracy"]["value"] == 1 and result["metrics"]["accuracy"]["n"] == 1
    assert result["unusable_reference"] == 1 and any("left out" in note for note in result["notes"])


def test_no_samples() -> None:
    assert yes_no_metrics([], [])["metrics"]["accuracy"]["value"] is None
