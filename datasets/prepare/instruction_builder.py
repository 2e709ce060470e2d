"""The wording of instruction records: questions and answers about one source record, from templates and a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets.errors import InputError
from datasets.vocabulary import diseases_of

_TEMPLATES = Path(__file__).resolve().parents[2] / "data" / "templates" / "instructions.json"
_LETTERS = "ABCDEFGHIJ"
Record = dict[str, Any]
Absent = Literal["leave_out", "say", "ask"]


class InstructionBuilder:
    """Writes the questions of one source record at a time; all choices come from one seeded generator.

    Args:
        label_set: names the diseases of classification records ("CT-RATE", "RadChestCT").
        questions: most questions of a kind about one volume.
        structures: most structures in one segmentation question.
        absent: structures without a voxel are left out, said to be absent, or asked for as if they were there.
        keep_choices: closed questions keep the order of their choices and M3D's wording, "Q Choices: A. ... B. ...".
    """

    def __init__(
        self,
        seed: int = 0,
        label_set: str | None = None,
        questions: int = 4,
        structures: int = 3,
        absent: Absent = "leave_out",
        keep_choices: bool = False,
    ):
        self.random = random.Random(seed)
        self.label_set = label_set
        self.questions = questions
        self.structures = structures
        self.absent = absent
        self.keep_choices = keep_choices
        self.templates = json.loads(_TEMPLATES.read_text(encoding="utf-8"))

    def classification(self, row: Record) -> Iterator[Record]:
        """A diagnosis request for all diseases, and yes/no questions: as many yes as no where both can be asked."""
        targets = _targets(row)
        if self.label_set:
            yield self._diagnosis(row, targets, self.label_set)
        yes = [name for name, value in targets.items() if value == 1]
        no = [name for name, value in targets.items() if value == 0]
        count = min(len(yes), len(no), self.questions // 2) or min(len(yes) + len(no), 1)
        for kind, names in (("yes", yes), ("no", no)):
            for name in self.random.sample(names, min(count, len(names))):
                finding = name[0].lower() + name[1:]
                question = self._pick("yes_no", "questions").format(finding=finding)
                yield self._asked(row, "yes_no", question, self._pick("yes_no", kind).format(finding=finding))

    def diagnosis(self, row: Record) -> Iterator[Record]:
        """The request for all diseases alone; a list of classes names the present ones, and the others are absent."""
        if self.label_set is None:
            raise InputError("diagnosis: --label_set is needed, for it names the diseases that are asked for")
        absent = {} if isinstance(row["disease_label"], dict) else dict.fromkeys(diseases_of(self.label_set), 0)
        yield self._diagnosis(row, {**absent, **_targets(row)}, self.label_set)

    def _diagnosis(self, row: Record, targets: dict[str, int | None], label_set: str) -> Record:
        diseases = diseases_of(label_set)
        if unknown := sorted(set(targets) - set(diseases)):
            raise ValueError(f"field disease_label: {unknown[0]!r} is not a disease of {label_set}")
        part = self.templates["diagnosis"]["answer_part"]
        return self._asked(
            row,
            "diagnosis",
            self._pick("diagnosis", "questions"),
            ", ".join(part.format(disease=disease) for disease in diseases) + ".",
            label_set=label_set,
            targets=targets,
        )

    def segmentation(self, row: Record, present: Collection[str] | None = None) -> Iterator[Record]:
        """Requests for one structure and for several in turn; no structure is asked for twice.

        present: the labels that have a voxel; None takes all for present.  What is done about the others says `absent`.
        """
        labels = list(row["labels"])
        known = set(labels) if present is None or self.absent == "ask" else set(present)
        groups = self._groups([label for label in labels if label in known])
        for chosen in groups:
            question = self._pick("segmentation", "questions").format(structures=_listed([f"the {c}" for c in chosen]))
            if len(chosen) == 1:
                answer = self._pick("segmentation", "answer_one")
            else:
                part = self.templates["segmentation"]["answer_part"]
                answer = _sentence([part.format(structure=f"the {label}") for label in chosen])
            yield self._asked(row, "segmentation", question, answer, labels=chosen, **_masks_of(row, labels, chosen))
        absent = [label for label in labels if label not in known] if self.absent == "say" else []
        for label in self.random.sample(absent, min(len(absent), max(1, self.questions // 2))):
            question = self._pick("segmentation", "questions").format(structures=f"the {label}")
            answer = self._pick("segmentation", "answer_absent").format(structure=f"the {label}")
            yield self._asked(row, "segmentation", question, answer[0].upper() + answer[1:])

    def _groups(self, labels: Sequence[str]) -> list[list[str]]:
        """At most `questions` groups of labels, of one and of `structures` in turn."""
        rest = self.random.sample(list(labels), len(labels))
        groups: list[list[str]] = []
        while rest and len(groups) < self.questions:
            count = 1 if len(groups) % 2 == 0 else self.structures
            groups.append(rest[:count])
            rest = rest[count:]
        return groups

    def report(self, row: Record) -> Iterator[Record]:
        """One request for the whole report."""
        yield self._asked(row, "report_generation", self._pick("report_generation", "questions"), row["report"])

    def vqa(self, row: Record) -> Iterator[Record]:
        """The question as it is, or with its choices, in a new order unless `keep_choices`."""
        question, answer, choices = row["question"], row["answer"], row.get("choices")
        if not choices:
            task = "yes_no" if answer.strip(" .").lower() in ("yes", "no") else "open_vqa"
            yield self._asked(row, task, question, answer)
            return
        texts, right = _choices_of(row)
        if not self.keep_choices:
            self.random.shuffle(texts)
        letters = list(choices) if self.keep_choices and isinstance(choices, dict) else _LETTERS
        lettered = dict(zip(letters, texts, strict=False))
        letter = next(letter for letter, text in lettered.items() if text == right)
        listed = " ".join(f"{letter}. {text}" for letter, text in lettered.items())
        if self.keep_choices:
            asked = f"{question} Choices: {listed}"
        else:
            asked = self._pick("multiple_choice", "questions").format(question=question, choices=listed)
        answer = self.templates["multiple_choice"]["answer"].format(letter=letter, choice=right)
        yield self._asked(row, "multiple_choice", asked, answer, choices=lettered)

    def open_vqa(self, row: Record) -> Iterator[Record]:
        """The question as an open one: a letter becomes the text that it stands for, the choices are not shown."""
        answer = _choices_of(row)[1] if row.get("choices") else row["answer"]
        yield self._asked(row, "open_vqa", row["question"], answer)

    def _pick(self, task: str, part: str) -> str:
        return self.random.choice(self.templates[task][part])

    def _asked(self, row: Record, task: str, question: str, answer: str, **extra: Any) -> Record:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        record = {"task": task, "question": parts, "image_path": row["image_path"], "answer": answer, **extra}
        return record | {name: row[name] for name in ("patient_id", "hu_offset") if row.get(name)}


def _targets(row: Record) -> dict[str, int | None]:
    """By disease 1, 0 or None, from any of the forms of a classification record; what is not named is left out."""
    label = row["disease_label"]
    return label if isinstance(label, dict) else dict.fromkeys([label] if isinstance(label, str) else label, 1)


def _choices_of(row: Record) -> tuple[list[str], str]:
    """The choices of a question, and the right one; ValueError where the answer is none of them."""
    answer: str = row["answer"]
    choices: dict[str, str] | list[str] = row["choices"]
    lettered = choices if isinstance(choices, dict) else {}
    texts = list(lettered.values() if lettered else choices)
    right = lettered.get(answer.strip(" ."), answer)
    if right not in texts:
        raise ValueError(f"field answer: {answer!r} is not one of the choices")
    return texts, right


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _sentence(parts: Sequence[str]) -> str:
    text = _listed(parts)
    return text[0].upper() + text[1:] + "."


def _masks_of(row: Record, labels: Sequence[str], chosen: Sequence[str]) -> Record:
    """Files and values of the chosen labels, from any of the forms of a segmentation record."""
    paths, values = row["mask_path"], row.get("mask_values") or {}
    asked = {label: values[label] for label in chosen if label in values}
    if isinstance(paths, str):
        if missing := [label for label in chosen if label not in values]:
            raise ValueError(f"field mask_values: no value for {missing[0]!r}")
        return {"mask_path": paths, "mask_values": asked}
    by_label = paths if isinstance(paths, dict) else dict(zip(labels, paths, strict=True))
    return {"mask_path": [by_label[label] for label in chosen], **({"mask_values": asked} if asked else {})}
