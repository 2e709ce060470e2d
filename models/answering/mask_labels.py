"""Which mask of an answer shows what: its name is read from the answer's words, else from the question's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from datasets.label_descriptions import descriptions
from datasets.vocabulary import SEGMENTATION


def mask_names(question: str, answer: str, count: int, labels: Iterable[str] = ()) -> list[str]:
    """Distinct names for the first `count` masks of an answer, one for each ``<SEG>``.

    A mask is named by the last label before its token, as in "The liver is <SEG> and the spleen is <SEG>.".  Where a
    token has none, as in "It is <SEG>.", the labels of the question are taken in their order, if there are as many as
    masks; else it is "mask 1" and so on.

    labels: that the model knows; without any, all that this project has a description for.
    """
    known = _pattern(list(labels) or list(descriptions()))
    before = answer.split(SEGMENTATION)[:count]
    found = [(known.findall(words) or [""])[-1] for words in before]
    if not all(found):
        asked = known.findall(question)
        found = asked if len(asked) == count else found
    return _distinct([name.lower() or f"mask {number}" for number, name in enumerate(found, start=1)])


def _pattern(labels: Sequence[str]) -> re.Pattern[str]:
    """Any of the labels as whole words, the longest first: "left kidney" before "kidney"."""
    spelled = {re.escape(label.replace("_", " ")).replace(r"\ ", "[ _]") for label in labels}
    return re.compile(rf"(?<!\w)(?:{'|'.join(sorted(spelled, key=len, reverse=True))})(?!\w)", re.IGNORECASE)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that stands there for another time."""
    given: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in given:
            candidate, number = f"{name} {number}", number + 1
        given.append(candidate)
    return given
