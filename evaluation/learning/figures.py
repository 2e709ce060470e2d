"""Pictures of `evaluation.learning.table`: losses over the steps of both trainings, and masks beside the truth."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from datasets.errors import InputError
from evaluation.report.mask_cases import ranked_cases, read_case
from evaluation.report.palette import SERIES_COLOURS
from evaluation.report.report_data import Evaluation
from evaluation.report.report_figures import case_figure
from evaluation.report.result_tables import TASK_NAMES

PANEL_COLUMNS = 3
# The loss that says what a task of tuning has learned, where that is not the language model's.
TUNING_LOSSES = {"segmentation": "mask_loss", "diagnosis": "diagnosis_loss"}
HELD_OUT = "validation/"  # stands before the name of a loss on held-out samples


def read_history(run: Path) -> list[dict[str, Any]]:
    """What a training run logged, a mapping of names to numbers a report; InputError where there is no such log."""
    path = run / "history.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give the output folder of a finished demo.sh") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines ({error})") from error


def pretraining_losses(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """{title: logged name} of each task's loss, in the order of the log."""
    names = dict.fromkeys(name for row in history for name in row if name.endswith("/loss"))
    return {
        f"Pretraining: {name.removesuffix('/loss').replace('_', ' ')}": name for name in names if name != "train/loss"
    }


def tuning_losses(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """{title: logged name} of each task's own loss: of the mask, of the confidences, else of the words."""
    logged = {name for row in history for name in row}
    names = {title: f"{task}/{TUNING_LOSSES.get(task, 'language_loss')}" for task, title in TASK_NAMES.items()}
    return {f"Tuning: {title.lower()}": name for title, name in names.items() if name in logged}


def curves_figure(folders: Sequence[Path]) -> Figure:
    """A panel a task: the training loss over steps, and dashed that on held-out samples; a thin line a seed run.

    Raises InputError where a folder has no log of pretraining (encoder/) or of tuning (run/), or none has any loss.
    """
    panels: dict[str, list[tuple[int, list, str]]] = {}  # title: (number of the seed run, its log, the loss's name)
    for part, losses in (("encoder", pretraining_losses), ("run", tuning_losses)):
        for number, folder in enumerate(folders):
            history = read_history(folder / part)
            for title, name in losses(history).items():
                panels.setdefault(title, []).append((number, history, name))
    if not panels:
        raise InputError(f"{folders[0]}: its logs hold no task's loss")
    rows = -(-len(panels) // PANEL_COLUMNS)
    figure = Figure(figsize=(3.4 * PANEL_COLUMNS, 2.2 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, PANEL_COLUMNS, squeeze=False).ravel()
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for number, history, name in lines:
            colour = SERIES_COLOURS[number % len(SERIES_COLOURS)]
            for logged, style in ((name, "-"), (HELD_OUT + name, "--")):
                points = [(row["step"], row[logged]) for row in history if logged in row]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=0.9)
        axes.set_title(title, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("optimiser step (dashed: held-out samples)", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    return figure


def overlays_picture(evaluation: Evaluation, labels: Collection[str]) -> Image.Image | None:
    """The best, the median and the worst mask by Dice of ``labels``, below each other; None where none was asked for.

    Raises InputError where a volume or a mask is gone.
    """
    cases = [
        (record, entry)
        for record in evaluation.of_task("segmentation")
        for entry in record.get("segmentation") or []
        if entry["label"] in labels
    ]
    pictures = []
    for rank, record, entry in ranked_cases(cases) if cases else []:
        case = read_case(evaluation.folder, record, entry, evaluation.mask_values.get((record["id"], entry["label"])))
        title = f"{rank.capitalize()} of {len(cases)} masks: {entry['label']}, Dice {entry['dice']:.2f}"
        figure = case_figure(
            case.volume, case.truth, case.prediction, case.spacing, f"{title} ({record['patient_id']})"
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3])
    return Image.fromarray(np.concatenate(pictures)) if pictures else None
