"""The encoder ablation: what each encoder gains from each set of objectives, as a Markdown table and a plot.

    python -m evaluation.ablation runs/ablation/* --output ablation

Each RUN is the folder of one encoder script.  Its validation.json (with --split test, test.json) tells encoder,
objectives, steps and scores; runs of the same encoder and objectives, of other seeds, are averaged.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets.commands import told
from datasets.errors import InputError
from datasets.whole_files import save_picture, write_whole_text
from evaluation.report.palette import SERIES_COLOURS
from evaluation.report.tables import NO_VALUE, Table, format_mean, mean_of_known, to_csv, to_markdown
from models.configuration import ENCODER_NAMES
from training.pretraining.settings import SCORES

OBJECTIVES = {
    frozenset({"image_text"}): "contrastive",
    frozenset({"image_text", "classification"}): "contrastive + classification",
    frozenset({"image_text", "segmentation"}): "contrastive + segmentation",
    frozenset({"image_text", "classification", "segmentation"}): "all three",
}
# Column: what a run's scores end with; a task's name stands in front, and the mean is over tasks.
METRICS = {
    "AUC": "auc",
    "Zero-shot AUC": "zero_shot_auc",
    "Dice": "dice",
    "Image to text R@5": "image_to_text_recall_5",
    "Text to image R@5": "text_to_image_recall_5",
}
CHANCE = "chance_recall_5"
PANELS = {  # title: the columns whose mean it shows, and what chance gives
    "Classification AUC": (("AUC",), 0.5),
    "Zero-shot AUC": (("Zero-shot AUC",), 0.5),
    "Dice": (("Dice",), None),
    "Recall at 5, both directions": (("Image to text R@5", "Text to image R@5"), CHANCE),
}


@dataclass(frozen=True)
class Run:
    """One pretraining run.  scores: by column of METRICS, where the run has them; chance: of recall at 5."""

    folder: str
    encoder: str
    objectives: frozenset[str]
    step: int
    split: str
    scores: dict[str, float]
    chance: float | None

    @property
    def objectives_name(self) -> str:
        """As in the table; a set outside the ablation's four by its kinds."""
        return OBJECTIVES.get(self.objectives, " + ".join(sorted(self.objectives)))


def read_run(folder: str | Path, split: str = "val") -> Run:
    """The run of a folder; InputError where it has no scores of the split, or such as lack a field."""
    path = Path(folder) / SCORES[split]
    if not path.is_file():
        how = "trained with --eval_interval" if split == "val" else "scored with --eval_only --validation_split test"
        raise InputError(f"{path}: no such file; give run folders of the encoder scripts, {how}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        encoder, kinds, step, scored = found["encoder"], frozenset(found["kinds"]), int(found["step"]), found["split"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged, or not of an encoder script ({error!r}); run it with --eval_only"
        ) from error
    if encoder not in ENCODER_NAMES:
        raise InputError(f"{path}: encoder {encoder!r} is not one of {', '.join(ENCODER_NAMES)}")
    scores = {column: value for column, end in METRICS.items() if (value := _mean_of_tasks(found, end)) is not None}
    return Run(str(folder), encoder, kinds, step, scored, scores, _mean_of_tasks(found, CHANCE))


def _mean_of_tasks(found: dict, metric: str) -> float | None:
    return mean_of_known(value for name, value in found.items() if name.count("/") == 1 and name.endswith(f"/{metric}"))


def group_runs(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by encoder and objectives, in the order of the table.

    Raises InputError where the runs were scored on different splits, or on numbers of pairs with another chance: their
    figures do not compare.
    """
    for name in ("split", "chance"):
        values = {getattr(run, name): run.folder for run in runs if getattr(run, name) is not None}
        if len(values) > 1:
            listed = ", ".join(f"{folder} has {value}" for value, folder in values.items())
            raise InputError(f"the runs differ in {name}: {listed}; score them on the same data with --eval_only")
    names = [*OBJECTIVES.values(), *sorted({run.objectives_name for run in runs} - set(OBJECTIVES.values()))]
    cells: dict[tuple[str, str], list[Run]] = {(encoder, name): [] for encoder in ENCODER_NAMES for name in names}
    for run in runs:
        cells[run.encoder, run.objectives_name].append(run)
    return {cell: members for cell, members in cells.items() if members}


def ablation_table(runs: Sequence[Run]) -> Table:
    """Encoder by objectives; "mean ± standard deviation" where a row has several runs."""
    groups = group_runs(runs)
    rows = []
    for (encoder, objectives), members in groups.items():
        steps = sorted({run.step for run in members})
        figures = [format_mean([run.scores[column] for run in members if column in run.scores]) for column in METRICS]
        rows.append((encoder, objectives, str(len(members)), "-".join(f"{step:,}" for step in steps), *figures))
    notes = [f"Scored on the {runs[0].split} split. {NO_VALUE}: not an objective of the run."]
    chances = [run.chance for run in runs if run.chance is not None]
    if chances:
        notes.append(f"Recall at 5 by chance: {chances[0]:.3f}. AUC by chance: 0.500.")
    notes.append(
        "Zero-shot AUC compares volumes with the bare names of diseases. A run with classification has seen the "
        "diseases, though not these texts."
    )
    columns = ("Encoder", "Objectives", "Runs", "Steps", *METRICS)
    return Table("Encoder ablation", columns, tuple(rows), tuple(notes), text_columns=2)


def ablation_plot(runs: Sequence[Run]) -> Figure:
    """A panel a metric: encoders along x, a bar for each set of objectives, chance as a dashed line."""
    groups = group_runs(runs)
    encoders = list(dict.fromkeys(encoder for encoder, _ in groups))
    objectives = list(dict.fromkeys(name for _, name in sorted(groups, key=_order_of_objectives)))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, (columns, chance)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        scores = {
            cell: values
            for cell, members in groups.items()
            if (values := [fmean(run.scores[c] for c in columns) for run in members if run.scores.keys() >= {*columns}])
        }
        measured = [name for name in objectives if name in {cell[1] for cell in scores}]
        width = 0.8 / max(len(measured), 1)
        for (encoder, name), values in scores.items():
            x = encoders.index(encoder) + (measured.index(name) - (len(measured) - 1) / 2) * width
            error = stdev(values) if len(values) > 1 else None
            colour = SERIES_COLOURS[objectives.index(name) % len(SERIES_COLOURS)]
            axes.bar(x, fmean(values), width, yerr=error, color=colour, label=name)
        level = next((run.chance for run in runs if run.chance is not None), None) if chance == CHANCE else chance
        if level is not None:
            axes.axhline(level, color="#777777", linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(encoders)), encoders)
        axes.set_xlim(-0.5, len(encoders) - 0.5)
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: bar for axes in figure.axes for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [name for name in objectives if name in handles]
    figure.legend(
        [handles[name] for name in shown], shown, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def _order_of_objectives(cell: tuple[str, str]) -> int:
    names = list(OBJECTIVES.values())
    return names.index(cell[1]) if cell[1] in names else len(names)


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder of an encoder script")
    parser.add_argument("--split", choices=SCORES, default="val", help="whose scores: of validation, or of the test")
    parser.add_argument("--output", type=Path, default=Path("ablation"), help="folder for ablation.md, .csv and .png")
    options = parser.parse_args(arguments)
    folders = list(dict.fromkeys(re.sub(r"/+$", "", folder) for folder in options.runs))
    runs = [read_run(folder, options.split) for folder in folders]
    table, plot = ablation_table(runs), ablation_plot(runs)
    write_whole_text(options.output / "ablation.md", to_markdown(table))
    write_whole_text(options.output / "ablation.csv", to_csv(table))
    save_picture(plot, options.output / "ablation.png", dpi=120)
    print(to_markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
