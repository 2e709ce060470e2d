"""Accuracy of multiple choice and yes/no answers, parsed from free text.

What cannot be parsed counts as wrong and is reported. The parsers take only what is stated: an answer that names two
letters, or says neither yes nor no, is not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from evaluation.metrics.bootstrap import RESAMPLES, bootstrap_mean

_STATED = r"\b(?:answer|option|choice|letter)\b(?:\s+(?:is|would be|should be))?\s*[:=]?\s*"
_YES_NO_WORDS = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def parse_letter(text: str, choices: Mapping[str, str] | None = None) -> str | None:
    """The letter that an answer chooses, or None where none or more than one is named.

    In order: the text starts with a letter and a mark ("B", "(B)", "B. Liver", "b) Liver"); it says "the answer is B"
    or "option B"; it is a choice's text, or contains the text of just one choice; it holds just one capital letter
    standing alone.

    Args:
        text: the free-text answer.
        choices: {"A": text, ...}; without it A to E are valid.
    """
    choices = {letter.strip().upper(): choice for letter, choice in (choices or dict.fromkeys("ABCDE", "")).items()}
    valid = "".join(re.escape(letter) for letter in choices)
    text = text.strip()
    if not text:
        return None
    # A lone letter, or one with a mark behind it; "A mass is seen" starts with an article and has no mark.
    if match := re.match(rf"^[(\[]?([{valid}])(?:[)\].:,;]|\s*$)", text, re.IGNORECASE):
        # "A, B" and "A. or B." name two.
        rest = set(re.findall(rf"(?<![\w'])([{valid}])(?=[)\].:,;]|\s*$)", text[match.end() :]))
        letter = match.group(1).upper()
        return letter if not rest - {letter} else None
    stated = {letter.upper() for letter in re.findall(rf"{_STATED}[(\[\"'*]*([{valid}])(?![\w'])", text, re.IGNORECASE)}
    if stated:
        return stated.pop() if len(stated) == 1 else None
    said = _plain(text)
    plain_choices = {letter: _plain(choice) for letter, choice in choices.items() if _plain(choice)}
    if same := [letter for letter, choice in plain_choices.items() if choice == said]:
        return same[0] if len(same) == 1 else None
    held = [letter for letter, choice in plain_choices.items() if re.search(rf"\b{re.escape(choice)}\b", said)]
    # "left lung" within "left lung nodule": the longer choice is what was said.
    held = [
        letter
        for letter in held
        if not any(
            plain_choices[letter] != plain_choices[other] and plain_choices[letter] in plain_choices[other]
            for other in held
        )
    ]
    if held:
        return held[0] if len(held) == 1 else None
    alone = set(re.findall(rf"(?<![\w'])([{valid}])(?![\w'])", text))
    if len(alone) == 1 and not re.search(r"(?<![\w'])A\s+[a-z]", text):
        return alone.pop()
    return None


def parse_yes_no(text: str) -> str | None:
    """ "yes" or "no", or None.

    The first word decides ("Yes, there is", "No."), also "true" and "false"; else "the answer is yes"; else its
    closing word ("I would say yes."). "There is no effusion" is None: its "no" belongs to the finding, and
    a sentence that affirms without a "yes" could not be told as surely.
    """
    words = _plain(text).split()
    if not words:
        return None
    if words[0] in _YES_NO_WORDS:
        first = _YES_NO_WORDS[words[0]]
        # "yes or no", "yes no": the question echoed, not an answer.
        echoed = re.match(r"(?:yes|no)(?: or| and)? (?:yes|no)\b", " ".join(words))
        return None if echoed else first
    stated = {_YES_NO_WORDS[word] for word in re.findall(rf"{_STATED}[\"'*]*(yes|no|true|false)\b", text.lower())}
    if not stated and words[-1] in ("yes", "no"):
        stated = {words[-1]}
    return stated.pop() if len(stated) == 1 else None


def _accuracy(
    parsed: Sequence[str | None],
    truths: Sequence[str | None],
    patients: Sequence[Hashable | None] | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    right = [None if truth is None else float(answer == truth) for answer, truth in zip(parsed, truths, strict=True)]
    usable = [index for index, truth in enumerate(truths) if truth is not None]
    unparsed = sum(parsed[index] is None for index in usable)
    notes = [f"{unparsed} of {len(usable)} answers could not be parsed; they count as wrong."]
    if len(usable) < len(truths):
        notes.append(
            f"{len(truths) - len(usable)} samples have a reference answer that cannot be parsed and are left out."
        )
    return {
        "metrics": {"accuracy": bootstrap_mean(right, patients, resamples, seed)},
        "unparsed": unparsed,
        "unusable_reference": len(truths) - len(usable),
        "notes": notes,
    }


def multiple_choice_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    choices: Sequence[Mapping[str, str] | None],
    patients: Sequence[Hashable | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of the parsed letters, and how many answers were not parsed.

    A reference may be a letter, a letter with text, or a choice's text.
    Returns:
        {"metrics": {"accuracy": Estimate}, "unparsed", "unusable_reference", "notes"}.
    """
    parsed = [parse_letter(text, choice) for text, choice in zip(predictions, choices, strict=True)]
    truths = [parse_letter(text, choice) for text, choice in zip(references, choices, strict=True)]
    return _accuracy(parsed, truths, patients, resamples, seed)


def yes_no_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    patients: Sequence[Hashable | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of parsed yes/no answers; the same keys as `multiple_choice_metrics`."""
    return _accuracy(
        [parse_yes_no(text) for text in predictions],
        [parse_yes_no(text) for text in references],
        patients,
        resamples,
        seed,
    )
