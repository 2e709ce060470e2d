"""The questions of CT-RATE: conversations about a volume, as pairs of a question and its answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from datasets.prepare.case import Findings, Question
from datasets.prepare.choices import split_choices
from datasets.prepare.tables import examples, read_json

_FILES = {"train": "train_vqa.json", "valid": "valid_vqa.json"}
_IMAGE = re.compile(r"^\s*<image>\s*|\s*<image>\s*$")
_PROMPT = re.compile(r"\s*<(report_generation|short_answer|long_answer|multiple_choice)>\s*$")
_YES_NO = ("yes", "no")


def read_questions(
    folder: Path, parts: Sequence[str], volumes: Collection[str], findings: Findings
) -> dict[str, tuple[Question, ...]]:
    """By the file name of the volume its questions, in the order of the files; those of other volumes are counted."""
    found: dict[str, list[Question]] = {}
    others: set[str] = set()
    counts: Counter[str] = Counter()
    for part in parts:
        path = folder / _FILES[part]
        if not path.is_file():
            findings.warnings.append(f"{path}: is missing; the volumes of this part have no questions")
            continue
        items = read_json(path, findings)
        if items is not None and not isinstance(items, list):
            findings.problems.append(f"{path}: must hold a list of conversations; download it again")
            continue
        for number, item in enumerate(items or []):
            try:
                name, pairs = _pairs(item)
            except ValueError as error:
                findings.problems.append(f"{path}: item {number} (from 0), {error}")
                continue
            if name not in volumes:
                others.add(name)
                continue
            found.setdefault(name, []).extend(_question(*pair, counts) for pair in pairs)
    if others:
        findings.warnings.append(f"questions about {examples(others)} volumes that were not downloaded are left out")
    if unparsed := counts.pop("multiple choice without choices", 0):
        findings.warnings.append(
            f"{folder}: {unparsed:,} multiple-choice questions do not tell their choices; they are kept as open ones"
        )
    findings.facts["questions"] = dict(sorted(counts.items()))
    return {name: tuple(questions) for name, questions in found.items()}


def _pairs(item: Any) -> tuple[str, list[tuple[str, str, str]]]:
    """The volume of a conversation, and its questions, answers and their kind; ValueError where it has no such form."""
    name = item.get("image") if isinstance(item, dict) else None
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(turns, list):
        raise ValueError("must have an image and conversations")
    if not turns or len(turns) % 2:
        raise ValueError(f"conversations: {len(turns)} turns; every question needs its answer")
    pairs = []
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        for turn, speaker in ((asked, "human"), (answered, "gpt")):
            text = turn.get("value") if isinstance(turn, dict) and turn.get("from") == speaker else None
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"conversations: expected a text of {speaker!r}, found {str(turn)[:60]!r}")
        prompt = _PROMPT.search(asked["value"])
        kind = asked.get("type") or answered.get("type") or (prompt[1] if prompt else "short_answer")
        pairs.append((_plain(asked["value"]), answered["value"].strip(), str(kind)))
    return name.rsplit("/", 1)[-1], pairs


def _plain(text: str) -> str:
    """A question without the marks of the image and of the kind of answer."""
    previous = ""
    while text != previous:
        previous, text = text, _IMAGE.sub("", _PROMPT.sub("", text))
    return text.strip()


def _question(text: str, answer: str, kind: str, counts: Counter[str]) -> Question:
    counts[kind] += 1
    if kind == "report_generation":
        return Question(text, answer, task="report_generation")
    if kind == "multiple_choice":
        parsed = split_choices(text, answer)
        if parsed is not None:
            return parsed
        counts["multiple choice without choices"] += 1
    return Question(text, answer, task="yes_no" if answer.strip(" .").lower() in _YES_NO else "open_vqa")
