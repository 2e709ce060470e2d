"""Rows of a comparison as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.peers.rows import FIGURES, PeerRow
from datasets.whole_files import save_picture

OURS, OTHERS = "tab:blue", "tab:gray"
BARS = ("seconds", "forward", "both", "tokens_a_second")  # what the plot shows, a panel each


def tables(parts: dict[str, Sequence[PeerRow]]) -> str:
    """Markdown: a table a part, by its title."""
    return "\n\n".join(f"{title}\n\n{part_table(rows)}" for title, rows in parts.items() if rows)


def part_table(rows: Sequence[PeerRow]) -> str:
    """Markdown of one part: the figures that its rows have, and in brackets their ratio to the group's first row."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    headings = [FIGURES[name].heading for name in names]
    lines = ["| " + " | ".join(["", *headings, ""]) + " |", "| --- |" + " --: |" * len(names) + " --- |"]
    for _, group in groupby(rows, key=lambda row: row.group):
        members = list(group)
        for row in members:
            cells = [_cell(row, members[0], name) for name in names]
            lines.append("| " + " | ".join([row.name, *cells, row.note]) + " |")
    return "\n".join(lines)


def _cell(row: PeerRow, first: PeerRow, name: str) -> str:
    if name not in row.figures:
        return ""
    figure = FIGURES[name]
    text = f"{row.figures[name]:.{figure.digits}f}"
    if figure.ratio and row is not first and first.figures.get(name):
        text += f" ({row.figures[name] / first.figures[name]:.2f}×)"
    return text


def bar_plot(rows: Sequence[PeerRow], about: str, path: Path) -> None:
    """Bars of time, and of tokens a second, a panel for each kind of figure that there is; ours in blue."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(name, [row for row in rows if name in row.figures]) for name in BARS]
    panels = [(name, shown) for name, shown in panels if shown]
    figure, all_axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(8, 1 + sum(0.6 + 0.3 * len(shown) for _, shown in panels)),
        height_ratios=[1 + 0.5 * len(shown) for _, shown in panels],
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, shown) in zip(all_axes[:, 0], panels, strict=True):
        values = [row.figures[name] for row in shown]
        bars = axes.barh([row.name for row in shown], values, color=[OURS if row.ours else OTHERS for row in shown])
        axes.bar_label(bars, fmt=f"%.{FIGURES[name].digits}f", padding=3, fontsize=8)
        axes.set_title(FIGURES[name].heading, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
        axes.invert_yaxis()
    figure.suptitle(about, fontsize=8)
    save_picture(figure, path, dpi=110)
    pyplot.close(figure)
