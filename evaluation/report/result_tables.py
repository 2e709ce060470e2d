"""Which figures stand in which table: a paper's matrices, every mean, per disease and per structure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from evaluation.metrics.release_protocol import DIAGNOSIS_METRICS, SUFFIX, TEXT_METRICS
from evaluation.report.tables import NO_VALUE, Table, format_estimate, format_number, metric_name

PUBLISHED_RESULTS = Path(__file__).resolve().parents[2] / "data" / "published_results.json"
TASK_NAMES = {
    "open_vqa": "Open questions", "yes_no": "Yes / no", "multiple_choice": "Multiple choice",
    "report_generation": "Reports", "segmentation": "Segmentation", "diagnosis": "Diagnosis",
}  # fmt: skip
DIAGNOSIS_COLUMNS = ("auc", "average_precision", "f1", "accuracy", "precision", "recall")
SEGMENTATION_COLUMNS = ("dice", "nsd", "hd95", "dice_release_protocol")
ALL_TEXT = "All text answers"  # of whatever task: the published evaluator does not part them

INTERVAL_NOTE = "[ ]: 95 % bootstrap interval by patient; ±: standard deviation."
# Matrices as a paper prints them: what is comparable stands in one, benchmarks down and metrics across.
MATRICES = (
    (
        "Diagnosis, macro",
        ("diagnosis",),
        (*DIAGNOSIS_COLUMNS, *DIAGNOSIS_METRICS),
    ),
    ("Segmentation, mean of structures", ("segmentation",), SEGMENTATION_COLUMNS),
    ("Multiple choice, yes / no", ("multiple_choice", "yes_no"), ("accuracy",)),
    (
        "Reports and open questions",
        ("report_generation", "open_vqa"),
        (
            *("bleu_1", "bleu_4", "rouge_1", "rouge_l", "meteor", "meteor_exact_stem", "bertscore"),
            *("exact_match", "token_f1"),
        ),
    ),
    (
        "Reports, clinical efficacy",
        ("report_generation",),
        ("ce_micro_f1", "ce_micro_precision", "ce_micro_recall", "ce_macro_f1", "crg"),
    ),
    ("Text, release protocol", (ALL_TEXT,), TEXT_METRICS),
)


def _metric_groups(summary: Mapping[str, Any]) -> list[tuple[str, str | None, Mapping[str, Any], Mapping[str, Any]]]:
    """(task, label set or None, metrics, counts) for every group of figures of a summary."""
    groups = []
    for task, result in summary["tasks"].items():
        if task == "diagnosis":
            groups += [(task, name, part["metrics"], result["counts"]) for name, part in result["label_sets"].items()]
        else:
            groups.append((task, None, result["metrics"], result["counts"]))
    if text := summary.get("release_protocol", {}).get("text"):
        groups.append((ALL_TEXT, None, text, summary["counts"]))
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
    notes = [_failure_note(summary["counts"]), INTERVAL_NOTE]
    for task, result in summary["tasks"].items():
        notes += [f"{_group_name(task)}: {note}" for note in result.get("notes", [])]
        for label_set, part in result.get("label_sets", {}).items():
            notes += [f"{_group_name(task, label_set)}: {note}" for note in part["notes"]]
    return Table(title, ("Task", "Metric", "Value [95 % CI]", "n"), tuple(rows), tuple(notes), text_columns=2)


def diagnosis_table(summary: Mapping[str, Any], label_set: str) -> Table:
    """Per disease and macro, of one label set of a `summarize` result."""
    part = summary["tasks"]["diagnosis"]["label_sets"][label_set]
    rows = []
    for disease, result in part["diseases"].items():
        cells = [format_estimate(result[metric], metric) for metric in DIAGNOSIS_COLUMNS]
        positive = f"{result['positives']}/{result['positives'] + result['negatives']}"
        rows.append((disease, positive, f"{result['threshold']:.3f}", *cells))
    macro = [format_estimate(part["metrics"][metric], metric) for metric in DIAGNOSIS_COLUMNS]
    rows.append(("Macro", "", "", *macro))
    columns = ("Disease", "Positive", "Threshold", *(metric_name(metric) for metric in DIAGNOSIS_COLUMNS))
    return Table(f"Diagnosis, {label_set}", columns, tuple(rows), tuple(dict.fromkeys(part["notes"])))


def segmentation_table(summary: Mapping[str, Any]) -> Table:
    """Per structure and the mean over structures; without segmentation samples a table without rows."""
    part = summary["tasks"].get("segmentation", {"structures": {}, "metrics": None, "notes": []})
    means = {"Mean of structures": part["metrics"]} if part["metrics"] else {}
    rows = [
        (
            *(label, str(result["dice"]["n"])),
            *(format_estimate(result.get(metric), metric) for metric in SEGMENTATION_COLUMNS),
        )
        for label, result in {**part["structures"], **means}.items()
    ]
    columns = ("Structure", "n", *(metric_name(metric) for metric in SEGMENTATION_COLUMNS))
    return Table("Segmentation", columns, tuple(rows), tuple(part["notes"]))


def confidence_table(probabilities: Mapping[str, float]) -> Table:
    """Confidences of one answer, highest first, and whether each is 0.5 or more."""
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    rows = tuple((disease, f"{value:.3f}", "yes" if value >= 0.5 else "no") for disease, value in ordered)
    return Table("Disease confidence", ("Disease", "Confidence", "Positive"), rows)


def read_published(path: str | Path) -> dict[str, dict[str, Any]]:
    """The paper's figures: {benchmark: {metric: {"value": number or null, "source": text}}}.

    They are the file's entry "paper"; those of others are `evaluation.report.peer_tables`'s.  A file without that entry
    holds the paper's figures alone.

    Raises:
        InputError: the file is unreadable, or a figure has no source (a figure that cannot be looked up is not
            printed as published).
    """
    try:
        published = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot read published figures ({error})") from error
    published = published.get("paper", published)
    for benchmark, metrics in published.items():
        for metric, figure in metrics.items():
            if not isinstance(figure, dict) or "value" not in figure:
                raise InputError(f"{path}: {benchmark}, {metric}: expected {{'value': ..., 'source': ...}}")
            if figure["value"] is not None and not figure.get("source"):
                raise InputError(
                    f"{path}: {benchmark}, {metric}: a figure without a source; name it or leave the value null"
                )
    return published


def paper_tables(
    summaries: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Table]:
    """The matrices that have rows: benchmarks down, metrics across, and behind a metric that the paper reports a column
    with its figure, empty where that is not known.  A column without any figure is left out, but for ours of the
    release's protocol, which a reader will look for.

    Args:
        summaries: {benchmark name: result of `summarize`}.
        published: see `read_published`.
    """
    published = _comparable(published, summaries)
    tables = []
    for title, tasks, metrics in MATRICES:
        groups = [
            (name, _group_name(task, label_set), values)
            for name, summary in summaries.items()
            for task, label_set, values, _ in _metric_groups(summary)
            if task in tasks
        ]
        columns = []  # (metric, whether it is the published figure)
        for metric in metrics:
            if not any(metric in values for _, _, values in groups):
                continue
            for theirs in (False, True):
                cells = {_cell(name, values, metric, theirs, published) for name, _, values in groups}
                if cells - {"", NO_VALUE} or (metric.endswith(SUFFIX) and not theirs):
                    columns.append((metric, theirs))
        rows = [
            (name, task, *(_cell(name, values, *column, published) for column in columns))
            for name, task, values in groups
        ]
        if not (rows and columns):
            continue
        names = [metric_name(metric) + (", published" if theirs else "") for metric, theirs in columns]
        shown = dict.fromkeys(name for name, _, _ in groups)
        notes = [INTERVAL_NOTE, *(f"{name}: {_failure_note(summaries[name]['counts'])}" for name in shown)]
        tables.append(
            Table(title, ("Benchmark", "Task", *names), tuple(rows), (*notes, *_sources(published, shown)), 2)
        )
    return tables


def _cell(
    benchmark: str, values: Mapping[str, Any], metric: str, theirs: bool, published: Mapping[str, Mapping[str, Any]]
) -> str:
    if not theirs:
        return format_estimate(values.get(metric), metric)
    figure = published.get(benchmark, {}).get(metric, {}).get("value")
    return "" if figure is None or metric not in values else format_number(figure, metric)


def _comparable(
    published: Mapping[str, Mapping[str, Any]] | None, summaries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Without benchmarks under a control (`evaluation.answering.controls`): the paper's models saw their images."""
    controls = {name: summary.get("run", {}).get("control", "none") for name, summary in summaries.items()}
    return {name: figures for name, figures in (published or {}).items() if controls.get(name, "none") == "none"}


def _sources(published: Mapping[str, Mapping[str, Any]], benchmarks: Iterable[str]) -> list[str]:
    """Where the published figures that are known were read."""
    figures = [figure for name in benchmarks for figure in published.get(name, {}).values()]
    sources = dict.fromkeys(str(figure["source"]) for figure in figures if figure["value"] is not None)
    return [f"Published: {source}" for source in sources]


def benchmark_table(
    summaries: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "Benchmarks",
) -> Table:
    """Benchmarks by metric as in a paper, the published figure beside ours; an unknown one stays empty, and without
    any known one there is no such column.

    Args:
        summaries: {benchmark name: result of `summarize`}.
        published: see `read_published`.
    """
    published = _comparable(published, summaries)
    rows: list[tuple[str, ...]] = []
    notes = [INTERVAL_NOTE]
    for benchmark, summary in summaries.items():
        notes.append(f"{benchmark}: {_failure_note(summary['counts'])}")
        known = published.get(benchmark, {})
        for task, label_set, values, _ in _metric_groups(summary):
            for metric, estimate in values.items():
                figure = known.get(metric, {}).get("value")
                theirs = "" if figure is None else format_number(figure, metric)
                ours, n = format_estimate(estimate, metric), str(estimate["n"])
                rows.append((benchmark, _group_name(task, label_set), metric_name(metric), ours, n, theirs))
    columns: tuple[str, ...] = ("Benchmark", "Task", "Metric", "Ours [95 % CI]", "n", "Published")
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(title, columns, tuple(rows), (*notes, *_sources(published, summaries)), text_columns=3)


def summary_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Everything a summary can show: all means, then per disease and per structure where there are any."""
    label_sets = summary["tasks"].get("diagnosis", {}).get("label_sets", {})
    tables = [
        summary_table(summary),
        *(diagnosis_table(summary, name) for name in label_sets),
        segmentation_table(summary),
    ]
    return [table for table in tables if table.rows]
