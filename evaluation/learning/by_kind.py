"""What a model answers of each kind of question, beside the best answers without a look at the volume.

    python -m evaluation.learning.by_kind --evaluation runs/open_kbp/evaluation \
        --train data/prepared/instruction/open_kbp_train.json --shuffled runs/open_kbp/evaluation_shuffled

The evaluation is a folder of evaluate_CTInstruct.py; the kind of a question is told by its id where `datasets.prepare`
measured it, else it is its task.  Blind answers are learned from the manifest that the model was tuned on (see
`evaluation.learning.blind_answers`).  The shuffled evaluation has the same questions, asked with --control shuffled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest import InstructionRecord, load_manifest
from datasets.prepare.measured_questions import kind_of
from datasets.vocabulary import SEGMENTATION
from datasets.whole_files import save_picture, write_whole_text
from evaluation.learning.blind_answers import likely_option_for_words, mean_masks, same_words
from evaluation.learning.chance import masks_of_others, one_option
from evaluation.learning.figures import overlays_picture
from evaluation.metrics.choices import parse_letter, parse_yes_no
from evaluation.metrics.text import token_f1
from evaluation.predictions import read_predictions
from evaluation.report.report_data import read_evaluation
from evaluation.report.tables import Table, format_number, mean_of_known, to_markdown

Record = Mapping[str, Any]
NOTES = (
    "Accuracy, but for masks, which have Dice (mean over structures of their means; one that was not given counts 0), "
    "and open answers, which have token F1. An answer that cannot be parsed is wrong.",
    "Chance: of a guess among the options; of masks what the truth of the next patient scores.",
    "Blind: the best answers without looking, learned from the training questions: what was mostly answered to the "
    "same words, which option was mostly right there, which voxels most training masks hold.",
    "Shuffled: the same questions, asked about the next patient's volume.",
)


def kind_table(train: Sequence[InstructionRecord], records: Sequence[Record], shuffled: Sequence[Record]) -> Table:
    """A line a kind of question, in the order in which they are met.

    Raises InputError where the shuffled records are of other questions, or a volume of a mask cannot be read.
    """
    if shuffled and [record["id"] for record in shuffled] != [record["id"] for record in records]:
        raise InputError("--shuffled: has other questions than --evaluation; give both the same manifest and --limit")
    asked = _by_kind(records)
    other = _by_kind(shuffled)
    rows = []
    for kind, group in asked.items():
        known = [record for record in train if _kind(record.id, record.task) == kind]
        chance, blind = _without_looking(known, group)
        figures = (chance, blind, _figure(group), _figure(other.get(kind, [])))
        rows.append((kind.replace("_", " "), str(len(group)), *map(format_number, figures)))
    columns = ("Kind of question", "Questions", "Chance", "Blind", "Model", "Shuffled")
    return Table("What is answered, by kind of question", columns, tuple(rows), NOTES)


def score(record: Record, answer: str) -> float | None:
    """1 for a right answer and 0 for a wrong one, of an open question token F1; None where the truth cannot be parsed.

    Of a structure outside the scan, which is asked for like any other, the answer must say so and hold no mask.
    """
    task, truth, choices = record["task"], record["answer"], record.get("choices")
    if task == "multiple_choice":
        right = parse_letter(truth, choices)
        return None if right is None else float(parse_letter(answer, choices) == right)
    if task == "yes_no":
        right = parse_yes_no(truth)
        return None if right is None else float(parse_yes_no(answer) == right)
    if task == "segmentation":
        return float(SEGMENTATION not in answer and _words(answer) == _words(truth))
    return token_f1(answer, truth)


def _figure(records: Sequence[Record]) -> float | None:
    """Of the answers that were given; None without any."""
    if _asks_for_masks(records):
        dice: dict[str, list[float]] = {}
        for record in records:
            given = {entry["label"]: entry["dice"] for entry in record["segmentation"]}
            for label in record["labels"]:
                dice.setdefault(label, []).append(given.get(label) or 0.0)
        return mean_of_known(fmean(values) for values in dice.values())
    return mean_of_known(score(record, record.get("prediction") or "") for record in records)


def _without_looking(
    train: Sequence[InstructionRecord], records: Sequence[Record]
) -> tuple[float | None, float | None]:
    """Chance and the best blind answers."""
    if _asks_for_masks(records):
        labels = {label for record in records for label in record["labels"]}
        return masks_of_others(records, labels), mean_masks(train, records, labels)
    if any(record.get("choices") for record in records):
        return one_option(records), likely_option_for_words(train, records)
    exact = records[0]["task"] in ("yes_no", "segmentation")
    chance = 0.5 if records[0]["task"] == "yes_no" else None
    return chance, same_words(train, records, (lambda said, true: float(said == true)) if exact else token_f1)


def _asks_for_masks(records: Sequence[Record]) -> bool:
    return any(record["labels"] for record in records)


def _by_kind(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records that did not fail."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        if record.get("error") is None:
            kinds.setdefault(_kind(record["id"], record["task"]), []).append(record)
    return kinds


def _kind(record_id: str, task: str) -> str:
    return kind_of(record_id) or task


def _words(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.learning.by_kind", description=__doc__.splitlines()[0])
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of evaluate_CTInstruct.py")
    parser.add_argument("--train", type=Path, required=True, help="manifest that the model was tuned on")
    parser.add_argument("--shuffled", type=Path, help="folder of the same questions with --control shuffled")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to")
    parser.add_argument("--picture", type=Path, help="PNG to draw the best, the median and the worst mask to")
    options = parser.parse_args(arguments)
    records, shuffled = (
        read_predictions(folder / "predictions.json") if folder else []
        for folder in (options.evaluation, options.shuffled)
    )
    text = to_markdown(kind_table(load_manifest(options.train), records, shuffled))
    if options.output is not None:
        write_whole_text(options.output, text)
    print(text)
    if options.picture is not None:
        labels = {label for record in records for label in record["labels"]}
        picture = overlays_picture(read_evaluation(options.evaluation), labels)
        if picture is None:
            raise InputError(f"--picture {options.picture}: {options.evaluation} asked for no masks; leave it out")
        save_picture(picture, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
