"""One row of a person's own table: what it adds to what is known of its image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.prepare.case import Mask, Question
from datasets.prepare.tables import Row, nearest

NOTHING = "none"  # as labels: nothing is present
_LETTERS = "ABCDEFGHIJ"


@dataclass
class OwnCase:
    """An image and what the rows so far say of it.  labels: None where none of them says anything."""

    image: str
    patient: str = ""
    report: str = ""
    labels: set[str] | None = None
    masks: dict[str, Mask] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


def add_row(case: OwnCase, row: Row, folder: Path, mask_label: str, label_set: Sequence[str]) -> None:
    """Add what a row says; ValueError (``column: what``) where it cannot be, or contradicts an earlier row.

    folder: of the table.  mask_label: the structure of a mask without a name, else the row's only label is.
    """
    given = row.fields
    if not (folder / case.image).exists():
        raise ValueError(f"image: no such file: {folder / case.image}")
    case.patient = _same("patient", case.patient, given.get("patient", ""))
    case.report = _same("report", case.report, given.get("report", ""))
    labels = _labels(given.get("labels", ""), label_set)
    if labels is not None:
        if case.labels is not None and case.labels != labels:
            raise ValueError("labels: an earlier row of this image has others")
        case.labels = labels
    only = next(iter(labels)) if labels is not None and len(labels) == 1 else ""
    for label, mask in _masks(given.get("mask", ""), folder, mask_label or only):
        if label in case.masks and case.masks[label] != mask:
            raise ValueError(f"mask: {label!r} has another mask already; part the files of one row by ;")
        case.masks[label] = mask
    question = _question(given.get("question", ""), given.get("answer", ""), given.get("choices", ""))
    if question is not None:
        case.questions.append(question)


def _same(column: str, before: str, now: str) -> str:
    if before and now and before != now:
        raise ValueError(f"{column}: an earlier row of this image has another")
    return before or now


def _labels(text: str, label_set: Sequence[str]) -> set[str] | None:
    """The labels of a row in the label set's spelling; None where the field is empty."""
    known = {label.casefold(): label for label in label_set}
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not parts:
        return None
    if [part.casefold() for part in parts] == [NOTHING]:
        return set()
    for part in parts:
        if part.casefold() not in known:
            raise ValueError(f"labels: {part!r} is not one of the label set{nearest(part, label_set)}")
    return {known[part.casefold()] for part in parts}


def _masks(text: str, folder: Path, mask_label: str) -> list[tuple[str, Mask]]:
    """`label=path#value,value;...` as masks by label."""
    found = []
    for item in filter(None, (part.strip() for part in text.split(";"))):
        label, equals, place = item.partition("=")
        if not equals:
            label, place = mask_label, item
        if not label.strip():
            raise ValueError(f"mask: {item!r} names no structure; write liver={item}, or give --set mask_label=liver")
        name, mark, numbers = place.strip().rpartition("#")
        if not mark:
            name, numbers = place.strip(), ""
        try:
            values = tuple(int(number) for number in numbers.split(",")) if mark else None
        except ValueError:
            raise ValueError(f"mask: {numbers!r} behind # is no whole number; write organs.nii.gz#5") from None
        if not (folder / name).exists():
            raise ValueError(f"mask: no such file: {folder / name}")
        found.append((label.strip(), Mask((folder / name,), values)))
    return found


def _question(text: str, answer: str, choices: str) -> Question | None:
    if not (text or answer or choices):
        return None
    for column, value in (("question", text), ("answer", answer)):
        if not value:
            raise ValueError(f"{column}: is empty, but the row has the rest of a question")
    lettered = _choices(choices)
    if not lettered:
        return Question(text, answer, task="yes_no" if answer.strip(" .").lower() in ("yes", "no") else "open_vqa")
    letters = [letter for letter, choice in lettered.items() if answer.strip(" .)") == letter or answer == choice]
    if len(letters) != 1:
        raise ValueError(f"answer: {answer!r} is not one of the choices {', '.join(lettered.values())}")
    return Question(text, letters[0], lettered, "multiple_choice")


def _choices(text: str) -> dict[str, str]:
    """Choices by letter, from `A=one;B=two` or `one;two`."""
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) == 1:
        raise ValueError("choices: only one is given; part them by ;")
    if len(parts) > len(_LETTERS):
        raise ValueError(f"choices: {len(parts)} are given; at most {len(_LETTERS)} have a letter")
    named = [part.partition("=") for part in parts]
    if all(
        equals and letter.strip() == expected for (letter, equals, _), expected in zip(named, _LETTERS, strict=False)
    ):
        parts = [choice.strip() for _, _, choice in named]
    if len(set(parts)) < len(parts):
        raise ValueError("choices: one is given twice")
    return dict(zip(_LETTERS, parts, strict=False))
