"""Questions of one form: yes or no, and one of a few options; few words, so that a small model can learn them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datasets.phantom.questions import CHOICE, YES_NO
from datasets.prepare.case import Question

_LETTERS = "ABCD"


def asked_as(wordings: Sequence[str], draw: random.Random, training: bool) -> Sequence[str]:
    """In training all wordings, so that a question which a patient has once is not rare; else one of them."""
    return wordings if training else (draw.choice(wordings),)


def yes_no(kind: str, text: str, truth: bool) -> Question:
    """A question that is answered by yes where `truth` holds, else by no."""
    return Question(text + YES_NO, "Yes." if truth else "No.", task="yes_no", kind=kind)


def one_of(kind: str, text: str, options: Sequence[str], right: str, draw: random.Random) -> Question:
    """A question with its options in random order, answered by the text of the right one, as phantoms are."""
    shuffled = draw.sample(list(options), len(options))
    choices = dict(zip(_LETTERS, shuffled, strict=False))
    listed = " ".join(f"{option} ({letter})" for letter, option in choices.items())
    return Question(f"{text} {listed}{CHOICE}", f"{right}.", choices, "multiple_choice", kind=kind)
