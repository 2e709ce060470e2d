"""Instruction manifests from classification, segmentation, report and question-answer records.

    python -m datasets.prepare.instructions classification records.json train.json --label_set CT-RATE --seed 0
    python -m datasets.prepare.instructions diagnosis test.json CT-RATE-diagnosis.json --label_set CT-RATE

Records are the pretraining manifests' ({image_path, disease_label}, {image_path, labels, mask_path, mask_values},
{image_path, report}) and, for vqa, {image_path, question, answer, choices?}.  `diagnosis` and `open_vqa` make the
manifests of benchmarks that ask for one thing only: of classes just the request for all confidences, without the yes/no
questions that `classification` adds, and of questions with choices open ones.  Wording comes from data/templates; the
same seed gives the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.manifest import ManifestError, load_manifest
from datasets.manifest_rows import read_rows, unknown_field
from datasets.vocabulary import diagnosis_facts, diseases_of

_TEMPLATES = Path(__file__).resolve().parents[2] / "data" / "templates" / "instructions.json"
_LETTERS = "ABCDEFGHIJ"
_FIELDS = {  # of a row, by kind
    "classification": ("disease_label",),
    "diagnosis": ("disease_label",),
    "segmentation": ("labels", "mask_path", "mask_values"),
    "report": ("report",),
    "vqa": ("question", "answer", "choices"),
    "open_vqa": ("question", "answer", "choices"),
}
_OF_ALL = ("image_path", "patient_id", "hu_offset")
KINDS = tuple(_FIELDS)
Record = dict[str, Any]


class InstructionBuilder:
    """Writes the questions of one source record at a time; all choices come from one seeded generator.

    Args:
        label_set: names the diseases of classification records ("CT-RATE", "RadChestCT").
        questions: most questions of a kind about one volume.
        structures: most structures in one segmentation question.
    """

    def __init__(self, seed: int = 0, label_set: str | None = None, questions: int = 4, structures: int = 3):
        self.random = random.Random(seed)
        self.label_set = label_set
        self.questions = questions
        self.structures = structures
        self.templates = json.loads(_TEMPLATES.read_text())

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

    def segmentation(self, row: Record) -> Iterator[Record]:
        """Requests for one structure and for several."""
        labels = list(row["labels"])
        paths, values = row["mask_path"], row.get("mask_values") or {}
        for number in range(min(self.questions, len(labels))):
            chosen = self.random.sample(labels, 1 if number % 2 == 0 else min(len(labels), self.structures))
            question = self._pick("segmentation", "questions").format(structures=_listed([f"the {c}" for c in chosen]))
            if len(chosen) == 1:
                answer = self._pick("segmentation", "answer_one")
            else:
                part = self.templates["segmentation"]["answer_part"]
                sentence = _listed([part.format(structure=f"the {label}") for label in chosen])
                answer = sentence[0].upper() + sentence[1:] + "."
            masks: Record = {"labels": chosen}
            if isinstance(paths, str):
                if missing := [label for label in chosen if label not in values]:
                    raise ValueError(f"field mask_values: no value for {missing[0]!r}")
                masks |= {"mask_path": paths, "mask_values": {label: values[label] for label in chosen}}
            else:
                by_label = paths if isinstance(paths, dict) else dict(zip(labels, paths, strict=True))
                masks["mask_path"] = [by_label[label] for label in chosen]
                if asked := {label: values[label] for label in chosen if label in values}:
                    masks["mask_values"] = asked
            yield self._asked(row, "segmentation", question, answer, **masks)

    def report(self, row: Record) -> Iterator[Record]:
        """One request for the whole report."""
        yield self._asked(row, "report_generation", self._pick("report_generation", "questions"), row["report"])

    def vqa(self, row: Record) -> Iterator[Record]:
        """The question as it is, or with its choices in a new order."""
        question, answer, choices = row["question"], row["answer"], row.get("choices")
        if not choices:
            task = "yes_no" if answer.strip(" .").lower() in ("yes", "no") else "open_vqa"
            yield self._asked(row, task, question, answer)
            return
        texts, right = _choices_of(row)
        self.random.shuffle(texts)
        lettered = dict(zip(_LETTERS, texts, strict=False))
        letter = next(letter for letter, text in lettered.items() if text == right)
        listed = " ".join(f"{letter}. {text}" for letter, text in lettered.items())
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


def build(kind: str, source: Path, target: Path, builder: InstructionBuilder) -> int:
    """Write ``target`` from ``source`` and validate it; gives the number of questions.

    Raises:
        InputError: a row lacks a field or has a wrong one; the message names file, row and field.
    """
    rows = read_rows(source)
    make: Callable[[Record], Iterator[Record]] = getattr(builder, kind)
    records: list[Record] = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ManifestError(f"{source}: row {number}, must be a record, not {type(row).__name__}")
        known = (*_OF_ALL, *_FIELDS[kind])
        if unknown := [name for name in row if name not in known]:
            raise ManifestError(f"{source}: row {number}, field {unknown[0]}: {unknown_field(unknown[0], known)}")
        try:
            for record in make(row):
                record["id"] = f"{source.stem}_{number}_{record['task']}_{len(records)}"
                records.append(_moved(record, source.parent, target.parent))
        except KeyError as error:
            raise ManifestError(f"{source}: row {number}, field {error.args[0]}: is missing") from error
        except (ValueError, AttributeError, TypeError) as error:
            raise ManifestError(f"{source}: row {number}, {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(load_manifest(target))


def _moved(record: Record, source: Path, target: Path) -> Record:
    """Paths of a record relative to the manifest that it is written to."""

    def moved(value: Any) -> Any:
        return list(map(moved, value)) if isinstance(value, list) else os.path.relpath(source / value, target)

    return {key: moved(value) if key in ("image_path", "mask_path") else value for key, value in record.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare.instructions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("source", type=Path, help="records")
    parser.add_argument("target", type=Path, help="instruction manifest to write")
    parser.add_argument("--label_set", choices=tuple(diagnosis_facts()), help="makes diagnosis requests of classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=4, help="most questions of a kind about one volume")
    parser.add_argument("--structures", type=int, default=3, help="most structures in one question")
    options = parser.parse_args(arguments)
    builder = InstructionBuilder(options.seed, options.label_set, options.questions, options.structures)
    try:
        count = build(options.kind, options.source, options.target, builder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {count} questions to {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
