"""Benchmark results as Markdown tables, and cost against volume size as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Aim, Row
from datasets.whole_files import save_picture


def rows_table(rows: Sequence[Row]) -> str:
    """Markdown: a line a stage; MFU (model FLOPs utilisation) is the limit over the measured time, in per cent."""
    lines = ["| Stage | s | GFLOP | limit s | over limit | MFU | peak GiB | |"]
    lines.append("| --- | --: | --: | --: | --: | --: | --: | --- |")
    for row in rows:
        cells = [_figure(row.seconds, 3), _figure(row.gflop, 1), _figure(row.limit_seconds, 3)]
        cells += [_figure(row.over_limit, 2), f"{100 / row.over_limit:.0f} %" if row.over_limit else ""]
        cells.append(_figure(row.peak_gib, 1))
        lines.append(f"| {row.stage} | {' | '.join(cells)} | {row.note} |")
    return "\n".join(lines)


def aims_table(aims: Sequence[Aim]) -> str:
    """Markdown: a line an aim, met or not."""
    lines = ["| Aim | measured | target | |", "| --- | --: | --: | --- |"]
    for aim in aims:
        bound = "≥" if aim.at_least else "≤"
        met = "met" if aim.met else "not met"
        lines.append(f"| {aim.name} | {aim.value:.2f}{aim.unit} | {bound} {aim.target:g}{aim.unit} | {met} |")
    return "\n".join(lines)


def cost_plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds against voxels of the stages that come in several sizes, beside the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families: dict[str, list[tuple[float, float, float]]] = {}  # (million voxels, seconds, limit) of each stage
    for row in rows:
        if row.voxels and row.limit_seconds:
            point = (row.voxels / 1e6, row.seconds, row.limit_seconds)
            families.setdefault(row.stage.split(",")[0], []).append(point)
    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    for name, points in families.items():
        millions, seconds, limits = zip(*sorted(points), strict=True)
        line = axes.plot(millions, seconds, marker="o", label=name)[0]
        axes.plot(millions, limits, ":", color=line.get_color(), label=f"{name}, limit")
    axes.set(xlabel="million voxels", ylabel="seconds", xscale="log", yscale="log", title="Full-size vision model")
    if families:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_picture(figure, path, dpi=110)
    pyplot.close(figure)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
