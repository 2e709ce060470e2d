"""Choices that are written into a question's text, taken apart."""

from __future__ import annotations

import re

from datasets.prepare.case import Question

# "(a) one (b) two", "A. one B. two", "A) one", "a: one": a letter with a mark behind it, after a blank or a bracket.
_FORMS = (re.compile(r"(?:^|(?<=\s))\(([A-Ja-j])\)\s*"), re.compile(r"(?:^|(?<=[\s,;]))([A-Ja-j])[.):]\s+"))
_LEAD = re.compile(r"\s*(?:choices|options)\s*:\s*$", re.IGNORECASE)


def split_choices(text: str, answer: str) -> Question | None:
    """The question with its choices by letter and the letter of the right one; None where they cannot be told.

    The letters must be A, B, C and so on in this order, and the answer one of them, its text, or both.
    """
    for form in _FORMS:
        marks = list(form.finditer(text))
        letters = [mark[1].upper() for mark in marks]
        if len(letters) < 2 or letters != list("ABCDEFGHIJ"[: len(letters)]):
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        texts = [text[mark.end() : end].strip(" \n\t,;") for mark, end in zip(marks, ends, strict=True)]
        choices = dict(zip(letters, texts, strict=True))
        right = _right(choices, answer)
        stem = _LEAD.sub("", text[: marks[0].start()]).strip()
        if right is not None and stem and all(texts) and len(set(texts)) == len(texts):
            return Question(stem, right, choices, "multiple_choice")
    return None


def _right(choices: dict[str, str], answer: str) -> str | None:
    """The letter that an answer names, by itself or by the text behind it."""
    answer = answer.strip()
    match = re.match(r"\(?([A-Ja-j])(?:\)|[.:]|$)\s*", answer)
    if match and match[1].upper() in choices:
        letter = match[1].upper()
        rest = answer[match.end() :]
        return letter if not rest or _key(rest) == _key(choices[letter]) else None
    found = [letter for letter, text in choices.items() if _key(text) == _key(answer)]
    return found[0] if len(found) == 1 else None


def _key(text: str) -> str:
    return " ".join(text.strip(" .").casefold().split())
