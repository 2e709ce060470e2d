"""What the demo's models have learned, beside chance, blind answers and controls, over one or several seeds.

    python -m evaluation.learning --seed_runs demo_output --output demo_output/learning

Each seed run is a folder of demo.sh: encoder/ and run/ with the logs of pretraining and tuning, evaluation/,
evaluation_shuffled/ and evaluation_no_image/ with metrics.json and predictions.json.  Figures are read from these, not
computed again.  Blind answers are learned from phantoms/train.json, which the model was tuned on; without it there are
none.  The output folder then holds learning.md, learning_curves.png and overlays.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest import InstructionRecord, load_manifest
from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.whole_files import save_picture, write_whole_text
from evaluation.learning.blind_answers import likely_option, mean_masks, same_report, same_words
from evaluation.learning.chance import answers_of_others, masks_of_others, one_option, reports_of_others
from evaluation.learning.figures import curves_figure, overlays_picture
from evaluation.metrics.text import token_f1
from evaluation.report.control_captions import CAPTIONS
from evaluation.report.report_data import Evaluation, read_evaluation
from evaluation.report.tables import NO_VALUE, Table, format_mean, format_number, mean_of_known, to_markdown

Record = Mapping[str, Any]
ORGANS = frozenset([*STRUCTURES, *GROUPS])  # every other label of a mask is a lesion's
FOLDERS = {"none": "evaluation", "shuffled": "evaluation_shuffled", "no_image": "evaluation_no_image"}


@dataclass(frozen=True)
class SeedRun:
    """A folder of demo.sh: the records that it was tuned on, where these are known, and its evaluations by control, all
    of the same questions."""

    folder: Path
    train: list[InstructionRecord]
    evaluations: dict[str, Evaluation]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        score: the line's figure in a summary; None where the summary has none.
        asked: whether a record belongs to this line.
        chance: the figure of a guess, or of another patient's answers, over the records (`evaluation.learning.chance`).
        blind: the figure of the best answers without a look at the volume, from the training records and the records
            (`evaluation.learning.blind_answers`).
    """

    name: str
    target: float | None
    score: Callable[[Mapping[str, Any]], float | None]
    asked: Callable[[Record], bool]
    chance: Callable[[Sequence[Record]], float | None] = lambda _: None
    blind: Callable[[Sequence[InstructionRecord], Sequence[Record]], float | None] = lambda *_: None


def read_seed_run(folder: str | Path) -> SeedRun:
    """Read the three evaluations of a folder.

    Raises:
        InputError: one is absent, was made under another control, or is of other questions.
    """
    evaluations = {control: read_evaluation(Path(folder) / name) for control, name in FOLDERS.items()}
    questions = [record["id"] for record in evaluations["none"].records]
    for control, evaluation in evaluations.items():
        made = evaluation.run.get("control", "none")
        if made != control:
            raise InputError(f"{evaluation.folder}: holds an evaluation with --control {made}, not {control}")
        if [record["id"] for record in evaluation.records] != questions:
            raise InputError(f"{evaluation.folder}: has other questions than {FOLDERS['none']}; give the same --limit")
    manifest = Path(folder) / "phantoms" / "train.json"
    return SeedRun(Path(folder), load_manifest(manifest) if manifest.is_file() else [], evaluations)


def _metric(summary: Mapping[str, Any], task: str, name: str) -> float | None:
    return summary["tasks"].get(task, {}).get("metrics", {}).get(name, {}).get("value")


def _auc(summary: Mapping[str, Any]) -> float | None:
    parts = summary["tasks"].get("diagnosis", {}).get("label_sets", {}).values()
    return mean_of_known(part["metrics"]["auc"]["value"] for part in parts)


def _mean_dice(summary: Mapping[str, Any], organs: bool) -> float | None:
    """Mean over structures of their mean Dice."""
    structures = summary["tasks"].get("segmentation", {}).get("structures", {})
    return mean_of_known(part["dice"]["value"] for label, part in structures.items() if (label in ORGANS) == organs)


def _is_of(record: Record, task: str) -> bool:
    return record["task"] == task


def _asks_for(record: Record, organs: bool) -> bool:
    return _is_of(record, "segmentation") and any((label in ORGANS) == organs for label in record["labels"])


def _row(name: str, target: float, task: str, metric: str, **more: Any) -> Row:
    return Row(name, target, partial(_metric, task=task, name=metric), partial(_is_of, task=task), **more)


SAME_ANSWER = partial(same_words, score=lambda said, true: float(said == true))
LIKELY_WORDS = partial(same_words, score=token_f1)
ROWS = (
    Row(
        "Organs by `<SEG>`, Dice",
        0.80,
        partial(_mean_dice, organs=True),
        partial(_asks_for, organs=True),
        partial(masks_of_others, labels=ORGANS),
        partial(mean_masks, labels=ORGANS),
    ),
    Row("Lesions by `<SEG>`, Dice", None, partial(_mean_dice, organs=False), partial(_asks_for, organs=False)),
    Row("Diagnosis, macro AUC", 0.90, _auc, partial(_is_of, task="diagnosis"), lambda _: 0.5, lambda *_: 0.5),
    _row("Yes / no, accuracy", 0.85, "yes_no", "accuracy", chance=lambda _: 0.5, blind=SAME_ANSWER),
    _row("Multiple choice, accuracy", 0.85, "multiple_choice", "accuracy", chance=one_option, blind=likely_option),
    _row("Open questions, token F1", 0.75, "open_vqa", "token_f1", chance=answers_of_others, blind=LIKELY_WORDS),
    _row(
        "Reports, clinical micro F1",
        0.75,
        "report_generation",
        "ce_micro_f1",
        chance=reports_of_others,
        blind=same_report,
    ),
)


def learning_table(runs: Sequence[SeedRun]) -> Table:
    """A line a task: target, chance, the model and its controls, and how many questions and volumes a run's figure is
    of.  Of several runs mean ± standard deviation, and the model's value of each."""
    seeds = _names([run.folder for run in runs]) if len(runs) > 1 else []
    rows = []
    for row in ROWS:
        scores = {c: [row.score(run.evaluations[c].summary) for run in runs] for c in FOLDERS}
        model, *controls = (format_mean([v for v in values if v is not None]) for values in scores.values())
        asked = [[r for r in _answered(run) if row.asked(r)] for run in runs]
        volumes = [{path for record in records for path in record["image_path"]} for records in asked]
        chance = row.chance([record for records in asked for record in records])
        tasks = {record["task"] for records in asked for record in records}
        blind = [row.blind([t for t in run.train if t.task in tasks], r) for run, r in zip(runs, asked, strict=True)]
        rows.append(
            (
                *(
                    row.name,
                    format_number(row.target),
                    format_number(chance),
                    format_number(mean_of_known(blind)),
                    model,
                ),
                *(format_number(value) for value in scores["none"] if seeds),
                *(*controls, _counts(asked), _counts(volumes)),
            )
        )
    captions = (words.capitalize() for words in CAPTIONS.values())
    columns = ("Task", "Target", "Chance", "Blind", "Model", *seeds, *captions, "Questions", "Volumes")
    notes = [
        "Held-out phantoms. Dice: mean over structures of their means. A mask that was not given counts as Dice 0, an "
        "answer that cannot be parsed as wrong.",
        "Images of another patient, no image: the same questions and truths, asked about the next patient's volume, or "
        f"without one. {NO_VALUE}: not known, or not asked.",
        "Chance: of a guess; of organs, open questions and reports what the truth of another patient would score.",
        "Blind: the best answers without looking, learned from the training questions: where organs mostly lie, what "
        "is mostly right for a question's words or an option, the findings that every report had best name.",
    ]
    if seeds:
        notes.append(f"±: sample standard deviation over {len(runs)} runs of other seeds.")
    return Table("What the model has learned", columns, tuple(rows), tuple(notes))


def _answered(run: SeedRun) -> list[dict[str, Any]]:
    return [record for record in run.evaluations["none"].records if record.get("error") is None]


def _counts(groups: Sequence[Iterable[Any]]) -> str:
    sizes = sorted({len(list(group)) for group in groups})
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names where these tell them apart, else their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.learning", description=__doc__.splitlines()[0])
    parser.add_argument("--seed_runs", nargs="+", required=True, metavar="DIR", help="output folder of demo.sh")
    parser.add_argument("--output", type=Path, required=True, help="folder for learning.md and the two pictures")
    options = parser.parse_args(arguments)
    folders = {Path(folder).resolve(): folder for folder in options.seed_runs}  # one named twice is one
    runs = [read_seed_run(folder) for folder in folders.values()]
    text, curves = to_markdown(learning_table(runs)), curves_figure([run.folder for run in runs])
    overlays = overlays_picture(runs[0].evaluations["none"], ORGANS)
    save_picture(curves, options.output / "learning_curves.png", dpi=120)
    pictures = "\n![Loss of each task](learning_curves.png)\n"
    if overlays is not None:
        save_picture(overlays, options.output / "overlays.png")
        pictures += "\n![Masks beside the truth](overlays.png)\n"
    write_whole_text(options.output / "learning.md", text + pictures)
    print(text)
    return 0
