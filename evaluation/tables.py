"""Metrics as tables: Markdown, CSV, LaTeX, and printed with rich."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import InputError

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
TASK_NAMES = {
    "open_vqa": "Open questions", "yes_no": "Yes / no", "multiple_choice": "Multiple choice",
    "report_generation": "Reports", "segmentation": "Segmentation", "diagnosis": "Diagnosis",
}  # fmt: skip
DIAGNOSIS_COLUMNS = ("auc", "average_precision", "f1", "accuracy", "precision", "recall")
SEGMENTATION_COLUMNS = ("dice", "nsd", "hd95", "dice_release_protocol")
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
    """ "0.812 [0.790, 0.835]"; without an interval just the figure; without a value a dash, or "not computed" where it
    was not."""
    if estimate is None:
        return NO_VALUE
    if estimate.get("value") is None:
        return "not computed" if str(estimate.get("reason", "")).startswith("not computed") else NO_VALUE
    value = format_number(estimate["value"], metric)
    if estimate.get("low") is None:
        return value
    return f"{value} [{format_number(estimate['low'], metric)}, {format_number(estimate['high'], metric)}]"


def _metric_groups(summary: Mapping[str, Any]) -> list[tuple[str, str | None, Mapping[str, Any], Mapping[str, Any]]]:
    """(task, label set or None, metrics, counts) for every group of figures of a summary."""
    groups = []
    for task, result in summary["tasks"].items():
        if task == "diagnosis":
            groups += [(task, name, part["metrics"], result["counts"]) for name, part in result["label_sets"].items()]
        else:
            groups.append((task, None, result["metrics"], result["counts"]))
    return groups


def _group_name(task: str, label_set: str | None = None) -> str:
    return TASK_NAMES.get(task, task) + (f" ({label_set})" if label_set else "")


def _failure_note(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['samples']} samples of {counts['patients']} patients; {counts['failed']} failed and are in no figure."
    )


def summary_table(summary: Mapping[str, Any], title: str = "Results") -> Table:
    """Every mean of a `summarize` result: one row a task and metric, with n and its 95 % interval."""
    rows = []
    for task, label_set, metrics, _ in _metric_groups(summary):
        name = _group_name(task, label_set)
        for metric, estimate in metrics.items():
            rows.append((name, metric_name(metric), format_estimate(estimate, metric), str(estimate["n"])))
    notes = [_failure_note(summary["counts"]), "[ ]: 95 % bootstrap interval by patient."]
    for task, result in summary["tasks"].items():
        notes += [f"{_group_name(task)}: {note}" for note in result.get("notes", [])]
        for label_set, part in result.get("label_sets", {}).items():
            notes += [f"{_group_name(task, label_set)}: {note}" for note in part["notes"]]
    return Table(title, ("Task", "Metric", "Value [95 % CI]", "n"), tuple(rows), tuple(notes), text_columns=2)


def diagnosis_table(summary: Mapping[str, Any], label_set: str | None = None) -> Table:
    """Per disease and macro, of one label set or of all; without diagnosis samples a table without rows."""
    label_sets = summary["tasks"].get("diagnosis", {}).get("label_sets", {})
    shown = label_sets if label_set is None else {label_set: label_sets[label_set]}
    rows, notes = [], []
    for name, part in shown.items():
        for disease, result in part["diseases"].items():
            cells = [format_estimate(result[metric], metric) for metric in DIAGNOSIS_COLUMNS]
            positive = f"{result['positives']}/{result['positives'] + result['negatives']}"
            rows.append((disease, positive, f"{result['threshold']:.3f}", *cells))
        macro = part["metrics"]
        mean = "Macro" if len(shown) == 1 else f"Macro, {name}"
        rows.append((mean, "", "", *(format_estimate(macro[metric], metric) for metric in DIAGNOSIS_COLUMNS)))
        notes += part["notes"]
    columns = ("Disease", "Positive", "Threshold", *(metric_name(metric) for metric in DIAGNOSIS_COLUMNS))
    return Table(", ".join(["Diagnosis", *shown]), columns, tuple(rows), tuple(dict.fromkeys(notes)))


def segmentation_table(summary: Mapping[str, Any]) -> Table:
    """Per structure and the mean over structures; without segmentation samples a table without rows."""
    part = summary["tasks"].get("segmentation", {"structures": {}, "metrics": None, "notes": []})
    means = {"Mean of structures": part["metrics"]} if part["metrics"] else {}
    rows = [
        (label, str(result["dice"]["n"]), *(format_estimate(result[metric], metric) for metric in SEGMENTATION_COLUMNS))
        for label, result in {**part["structures"], **means}.items()
    ]
    columns = ("Structure", "n", *(metric_name(metric) for metric in SEGMENTATION_COLUMNS))
    return Table("Segmentation", columns, tuple(rows), tuple(part["notes"]))


def confidence_table(
    probabilities: Mapping[str, float], thresholds: Mapping[str, float] | None = None, title: str = "Disease confidence"
) -> Table:
    """Confidences of one answer, highest first, and whether each passes its threshold (0.5 without one)."""
    rows = []
    for disease, probability in sorted(probabilities.items(), key=lambda item: -item[1]):
        threshold = (thresholds or {}).get(disease, 0.5)
        rows.append((disease, f"{probability:.3f}", f"{threshold:.3f}", "yes" if probability >= threshold else "no"))
    return Table(title, ("Disease", "Confidence", "Threshold", "Positive"), tuple(rows))


def read_published(path: str | Path) -> dict[str, dict[str, Any]]:
    """Published figures: {benchmark: {metric: {"value": number or null, "source": text}}}.

    Raises:
        InputError: the file is unreadable, or a figure has no source (a figure that cannot be looked up is not
            printed as published).
    """
    try:
        published = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot read published figures ({error})") from error
    for benchmark, metrics in published.items():
        for metric, figure in metrics.items():
            if not isinstance(figure, dict) or "value" not in figure:
                raise InputError(f"{path}: {benchmark}, {metric}: expected {{'value': ..., 'source': ...}}")
            if figure["value"] is not None and not figure.get("source"):
                raise InputError(
                    f"{path}: {benchmark}, {metric}: a figure without a source; name it or leave the value null"
                )
    return published


def benchmark_table(
    summaries: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Sequence[str] | None = None,
    title: str = "Benchmarks",
) -> Table:
    """Benchmarks by metric as in a paper, with the published figure beside ours; unknown published figures stay empty.

    Args:
        summaries: {benchmark name: result of `summarize`}.
        published: see `read_published`.
        metrics: keys to show, in order; all by default.
    """
    rows, notes = [], ["[ ]: 95 % bootstrap interval by patient."]
    for benchmark, summary in summaries.items():
        notes.append(f"{benchmark}: {_failure_note(summary['counts'])}")
        known = (published or {}).get(benchmark, {})
        for task, label_set, values, _ in _metric_groups(summary):
            shown = values if metrics is None else [metric for metric in metrics if metric in values]
            for metric in shown:
                figure = known.get(metric, {}).get("value")
                theirs = "" if figure is None else format_number(figure, metric)
                ours, n = format_estimate(values[metric], metric), str(values[metric]["n"])
                rows.append((benchmark, _group_name(task, label_set), metric_name(metric), ours, n, theirs))
    columns = ("Benchmark", "Task", "Metric", "Ours [95 % CI]", "n", "Published")
    return Table(title, columns, tuple(rows), tuple(notes), text_columns=3)


def to_markdown(table: Table) -> str:
    """A Markdown table under its title; notes below it as a list."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = [":---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = [f"### {table.title}", "", line(table.columns), line(rule), *(line(row) for row in table.rows)]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Header and rows only, RFC 4180 quoting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
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
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in files]


def summary_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Everything a summary can show: all means, then per disease and per structure where there are any."""
    label_sets = summary["tasks"].get("diagnosis", {}).get("label_sets", {})
    tables = [
        summary_table(summary),
        *(diagnosis_table(summary, name) for name in label_sets),
        segmentation_table(summary),
    ]
    return [table for table in tables if table.rows]
