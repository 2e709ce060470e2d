"""Tables of text: Markdown, CSV, LaTeX, and printed with rich; how figures are written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from datasets.whole_files import write_whole_text

Estimate = Mapping[str, Any]
# Names as a paper prints them; a metric that is not here is printed as it is.
METRIC_NAMES = {
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{f"corpus_bleu_{n}": f"Corpus BLEU-{n}" for n in range(1, 5)},
    "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L",
    "meteor": "METEOR", "meteor_exact_stem": "METEOR (exact + stem)",
    "exact_match": "Exact match", "token_f1": "Token F1",
    "bertscore": "BERTScore", "auc": "AUC", "average_precision": "AP", "f1": "F1", "accuracy": "Accuracy",
    "precision": "Precision", "recall": "Recall", "dice": "Dice", "nsd": "NSD 2 mm", "hd95": "HD95 (mm)", "crg": "CRG",
    "ce_micro_f1": "CE micro F1", "ce_micro_precision": "CE micro precision", "ce_micro_recall": "CE micro recall",
    "ce_macro_f1": "CE macro F1", "ce_macro_precision": "CE macro precision", "ce_macro_recall": "CE macro recall",
}  # fmt: skip
MILLIMETRES = ("hd95",)
NO_VALUE = "–"


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `text_columns` are aligned to the left, the figures behind them to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': row {row} has {len(row)} cells for {len(self.columns)} columns"
                )


def metric_name(metric: str) -> str:
    """The printed name of a metric key; `*_release_protocol` is marked as such."""
    base = metric.removesuffix("_release_protocol")
    name = METRIC_NAMES.get(base, base)
    return f"{name} (release protocol)" if base != metric else name


def format_number(value: float | None, metric: str = "") -> str:
    """Three decimals for shares, one for millimetres, a dash for no value."""
    if value is None:
        return NO_VALUE
    return f"{value:.1f}" if metric in MILLIMETRES else f"{value:.3f}"


def format_estimate(estimate: Estimate | None, metric: str = "") -> str:
    """ "0.812 [0.790, 0.835]", or "0.812 ± 0.045" with a standard deviation; without either just the figure; without a
    value a dash, or "not computed" where it was not."""
    if estimate is None:
        return NO_VALUE
    if estimate.get("value") is None:
        return "not computed" if str(estimate.get("reason", "")).startswith("not computed") else NO_VALUE
    value = format_number(estimate["value"], metric)
    if estimate.get("std") is not None:
        return f"{value} ± {format_number(estimate['std'], metric)}"
    if estimate.get("low") is None:
        return value
    return f"{value} [{format_number(estimate['low'], metric)}, {format_number(estimate['high'], metric)}]"


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None without any."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def format_mean(values: Sequence[float]) -> str:
    """ "0.812 ± 0.010": the mean and, of several, the sample standard deviation; a dash for none."""
    if not values:
        return NO_VALUE
    spread = f" ± {format_number(stdev(values))}" if len(values) > 1 else ""
    return format_number(fmean(values)) + spread


def to_markdown(table: Table) -> str:
    """A Markdown table under its title; notes below it as a list.  What looks like HTML stays text."""

    def line(cells: Iterable[str]) -> str:
        texts = (_without_tags(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        return "| " + " | ".join(texts) + " |"

    rule = [":---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = [
        f"### {_without_tags(table.title)}",
        "",
        line(table.columns),
        line(rule),
        *(line(row) for row in table.rows),
    ]
    if table.notes:
        lines += ["", *(f"- {_without_tags(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _without_tags(text: str) -> str:
    return text.replace("<", "&lt;")


# = + - @, a tab and a return begin a formula; a sign before a figure, as in "-0.3 [-0.5, -0.1]", is one of ours
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d[\d.]*(e[+-]?\d+)?( ± [\d.]+| \[[-+\d., e]+\])?$)")


def to_csv(table: Table) -> str:
    """Header and rows only, RFC 4180 quoting.  A cell that a spreadsheet would run as a formula gets a ' in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([f"'{cell}" if _FORMULA.match(cell) else cell for cell in row] for row in table.rows)
    return text.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", NO_VALUE: "--",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """`text` with every character that LaTeX reads as a command made printable."""
    return re.sub("|".join(re.escape(character) for character in _LATEX), lambda match: _LATEX[match.group()], text)


def to_latex(table: Table) -> str:
    """A booktabs table environment; notes follow the tabular in small type."""

    def line(cells: Iterable[str]) -> str:
        # A row that starts with "[" would be read as the optional argument of the \\ before it.
        return (
            " & ".join("{" + cell + "}" if cell.startswith("[") else cell for cell in map(escape_latex, cells)) + r" \\"
        )

    alignment = "l" * table.text_columns + "r" * (len(table.columns) - table.text_columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        line(table.columns),
        r"\midrule",
        *(line(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if table.notes:
        lines.append(r"\par\smallskip{\footnotesize " + " ".join(escape_latex(note) for note in table.notes) + "}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def print_table(table: Table, console: Any = None) -> None:
    """Print with rich; `console` defaults to one on standard output."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(table.title))
    for index, column in enumerate(table.columns):
        # Text, not str: rich would read "[0.1, 0.2]" as markup.
        drawn.add_column(Text(column), justify="left" if index < table.text_columns else "right")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = console or Console()
    console.print(drawn)
    for note in table.notes:
        console.print(Text(f"  {note}", style="dim"))


def write_tables(tables: Iterable[Table], folder: str | Path, stem: str = "tables") -> list[Path]:
    """Write `stem`.md and `stem`.tex with all tables, and one CSV a table; return the paths."""
    folder, tables = Path(folder), list(tables)
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{stem}.md": "\n".join(map(to_markdown, tables)), f"{stem}.tex": "\n".join(map(to_latex, tables))}
    for table in tables:
        name = re.sub(r"[^a-z0-9]+", "_", table.title.lower()).strip("_")
        files[f"{stem}_{name}.csv"] = to_csv(table)
    for name, content in files.items():
        write_whole_text(folder / name, content)
    return [folder / name for name in files]
