"""What a part measured, beside its aim: kept in a file as it goes, and told in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Row
from datasets.whole_files import write_whole_text


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    value: in `unit`, or None where it could not be measured, which `note` explains.  target: what it should be, at
    least or at most; None where nothing is aimed at.
    """

    part: str
    name: str
    value: float | None
    unit: str = ""
    target: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side of its target; None without one of the two."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


class FigureFile:
    """The figures of one part, written anew with each, so that a part that is ended has what it had measured."""

    def __init__(self, path: Path, part: str) -> None:
        self.path, self.part = path, part
        self.figures: list[Figure] = []
        self.more: dict[str, Any] = {}

    def add(self, name: str, value: float | None, unit: str = "", **options: Any) -> None:
        """Keep a figure, and print it to the part's log; options are the other fields of `Figure`."""
        self.figures.append(Figure(self.part, name, value, unit, **options))
        print(line_of(self.figures[-1]), flush=True)
        self._write()

    def keep(self, **values: Any) -> None:
        """Keep what is no line of the table, as JSON types."""
        self.more.update(values)
        self._write()

    def _write(self) -> None:
        content = {"figures": [asdict(figure) for figure in self.figures], "more": self.more}
        write_whole_text(self.path, json.dumps(content, indent=1) + "\n")


def read_figures(path: Path) -> tuple[list[Figure], dict[str, Any]]:
    """What a `FigureFile` holds; nothing where there is none."""
    if not path.is_file():
        return [], {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Figure(**figure) for figure in content["figures"]], content["more"]


def of_row(row: Row, nominal: float | None = None) -> dict[str, Any]:
    """A stage of `benchmarks.run` as a figure's fields: milliseconds, with utilisation and memory as its note.

    nominal: the card's operations a second by its maker, where they are known.
    """
    parts = []
    if row.over_limit:
        parts.append(f"MFU {100 / row.over_limit:.0f} %")
    if row.gflop and nominal:
        parts.append(f"{1e11 * row.gflop / row.seconds / nominal:.0f} % of the nominal peak")
    if row.peak_gib is not None:
        parts.append(f"peak {row.peak_gib:.1f} GiB")
    parts += [row.note] if row.note else []
    return {"name": row.stage, "value": 1000 * row.seconds, "unit": "ms", "note": ", ".join(parts)}


def table(figures: Sequence[Figure]) -> str:
    """Markdown: part, figure, aim, met or not."""
    lines = ["| Part | Figure | measured | aim | | |", "| --- | --- | --: | --: | --- | --- |"]
    lines += [line_of(figure) for figure in figures]
    return "\n".join(lines)


def line_of(figure: Figure) -> str:
    """The figure's row of `table`."""
    value = "–" if figure.value is None else f"{figure.value:.4g} {figure.unit}".rstrip()
    aim = ""
    if figure.target is not None:
        aim = f"{'≥' if figure.at_least else '≤'} {figure.target:g} {figure.unit}".rstrip()
    met = {True: "met", False: "not met", None: ""}[figure.met]
    if figure.target is not None and figure.met is None:
        met = "not measured"
    return f"| {figure.part} | {figure.name} | {value} | {aim} | {met} | {figure.note} |"
