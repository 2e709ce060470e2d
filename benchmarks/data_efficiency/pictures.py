"""The curves as a Markdown table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.data_efficiency.results import Result, group, mean_dice, mean_gain
from evaluation.metrics.bootstrap import Estimate
from evaluation.report.palette import SERIES_COLOURS

NONE = "–"
SHIFT = (
    1.035  # between two starts at the same number of patients, as a factor, so that intervals do not hide each other
)


def ordered(values: Sequence[str], order: Sequence[str]) -> list[str]:
    """The distinct values, those of ``order`` first and in its order."""
    return [name for name in order if name in values] + [name for name in dict.fromkeys(values) if name not in order]


def curves_table(results: Sequence[Result], encoders: Sequence[str], starts: Sequence[str]) -> str:
    """Dice with its interval by encoder, start and number of patients, and under it the gain over the first start.

    encoders, starts: their order.  A number after × says over how many seeds a mean is, where they are several.
    """
    counts = sorted({result.patients for result in results})
    head = ["| Encoder | Start | " + " | ".join(f"{count}" for count in counts) + " |"]
    head.append("| :--- | :--- |" + " ---: |" * len(counts))
    dice_lines, gain_lines = [], []
    for encoder in ordered([result.encoder for result in results], encoders):
        of_encoder = [result.start for result in results if result.encoder == encoder]
        for start in ordered(of_encoder, starts):
            points = [group(results, encoder, start, count) for count in counts]
            cells = [_cell(mean_dice(point), len(point)) if point else NONE for point in points]
            dice_lines.append(f"| {encoder} | {start} | {' | '.join(cells)} |")
            if start != starts[0]:
                gains = [
                    mean_gain(point, group(results, encoder, starts[0], count))
                    for point, count in zip(points, counts, strict=True)
                ]
                cells = [_cell(gain, 1, "+.3f") if gain else NONE for gain in gains]
                if any(gains):  # runs from scratch may not be there
                    gain_lines.append(f"| {encoder} | {start} | {' | '.join(cells)} |")
    text = "Dice of held-out patients by the number of training patients, with 95 % intervals:\n\n"
    text += "\n".join([*head, *dice_lines]) + "\n"
    if gain_lines:
        text += f"\nGain over “{starts[0]}”, paired by seed, patient and organ:\n\n" + "\n".join([*head, *gain_lines])
        text += "\n"
    return text


def _cell(estimate: Estimate, seeds: int, form: str = ".3f") -> str:
    cell = format(estimate["value"], form)
    if estimate["low"] is not None:
        cell += f" ({estimate['low']:{form}} to {estimate['high']:{form}})"
    return cell + (f" ×{seeds}" if seeds > 1 else "")


def curves_figure(results: Sequence[Result], encoders: Sequence[str], starts: Sequence[str]) -> Figure:
    """A panel an encoder: Dice against patients on a logarithmic axis, a line a start, every seed as a point.

    Bars are 95 % intervals over held-out patients.
    """
    shown = ordered([result.encoder for result in results], encoders)
    counts = sorted({result.patients for result in results})
    figure = Figure(figsize=(3.3 * len(shown) + 0.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, encoder in zip(panels, shown, strict=True):
        for number, start in enumerate(starts):
            points = {count: group(results, encoder, start, count) for count in counts}
            points = {count: members for count, members in points.items() if members}
            if not points:
                continue
            colour, shift = SERIES_COLOURS[number % len(SERIES_COLOURS)], SHIFT ** (number - (len(starts) - 1) / 2)
            estimates = [mean_dice(members) for members in points.values()]
            places, means = [count * shift for count in points], [estimate["value"] for estimate in estimates]
            bars = [[max(0.0, _distance(estimate, end)) for estimate in estimates] for end in ("low", "high")]
            axes.errorbar(places, means, bars, color=colour, linewidth=1.2, elinewidth=0.7, capsize=2, label=start)
            seeds = [(count * shift, result.dice) for count, members in points.items() for result in members]
            axes.plot(*zip(*seeds, strict=True), "o", color=colour, markersize=3.5, alpha=0.7)
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(encoder, fontsize=10)
        axes.set_xlabel("training patients", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.5)
    panels[0].set_ylabel("mean Dice of held-out patients", fontsize=9)
    panels[0].set_ylim(bottom=0)
    handles: dict[str, Any] = {}
    for axes in panels:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    titles = ordered(list(handles), starts)
    figure.legend(
        [handles[title] for title in titles], titles, loc="outside lower center", ncols=len(titles), fontsize=8
    )
    return figure


def _distance(estimate: Estimate, end: str) -> float:
    return 0.0 if estimate[end] is None else abs(float(estimate[end]) - float(estimate["value"]))
