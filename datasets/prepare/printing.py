"""What `datasets.prepare` says: tables of data sets, of what was checked and of what was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from datasets.prepare.checking import Checked, LabelCount, counts_by_split, label_counts, lines_of_problems
from datasets.prepare.coverage import Covered, coverage
from datasets.prepare.data_set import DataSet
from datasets.prepare.preparing import Prepared
from datasets.prepare.uses import label_set_of

WIDTH = 160  # where the output is a file


def output() -> Console:
    """Standard output; tables are not cut to 80 columns where it is a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def print_data_sets(console: Console, data_sets: Mapping[str, DataSet], found: Mapping[str, list[Path]]) -> None:
    """Every data set with what it makes, and where it was found; then the tasks that are covered."""
    table = Table(
        "name", "makes", "size", "licence", "where to get it", "found", title="Data sets", title_justify="left"
    )
    for name, data_set in data_sets.items():
        tasks = [*data_set.pretraining, *data_set.instruction]
        tasks += [f"{data_set.measured.name} (measured)"] if data_set.measured is not None else []
        tasks += [f"{benchmark} (benchmark)" for benchmark in data_set.benchmarks]
        places = "\n".join(str(place) for place in found.get(name, ())) or "-"
        table.add_row(name, "\n".join(tasks), data_set.size, data_set.licence, data_set.address, places)
    console.print(table)
    print_coverage(console, coverage(data_sets.values()), found)


def print_coverage(console: Console, covered: Sequence[Covered], found: Mapping[str, list[Path]]) -> None:
    """A line for each task: which data sets make it, which of them are there, and which fact nobody has."""
    table = Table("task", "stage", "made of", "found", "not published by anybody", title="Tasks", title_justify="left")
    for task in covered:
        there = ", ".join(name for name in task.data_sets if name in found) or "-"
        table.add_row(task.task, task.stage, ", ".join(task.data_sets) or "NOTHING", there, task.unknown)
    console.print(table)
    for stage in dict.fromkeys(task.stage for task in covered):
        of_stage = [task for task in covered if task.stage == stage]
        made = sum(bool(task.data_sets) for task in of_stage)
        available = sum(any(name in found for name in task.data_sets) for task in of_stage)
        console.print(f"{stage}: {made} of {len(of_stage)} tasks can be prepared, {available} from what was found")


def print_settings(console: Console, data_set: DataSet) -> None:
    """What can be set, since nobody has pinned it."""
    for name, setting in data_set.settings.items():
        console.print(f"  --set {name}={setting.default or '...'}: {setting.meaning}", markup=False)


def print_checked(console: Console, checked: Checked) -> None:
    """Counts, labels, exclusions, warnings and problems of a data set that was read."""
    version = f" {checked.findings.version}" if checked.findings.version else ""
    console.print(f"{checked.data_set.title}{version}: {checked.source}", markup=False)
    console.print(f"  cases: {_counts(counts_by_split(checked.cases)) or 'none'}")
    if checked.scan.files:
        scan = checked.scan
        console.print(f"  {scan.files} files looked at in {scan.seconds:.1f} s, {scan.rate:.0f} a second")
    train = [case for case in checked.cases if case.split == "train"] or checked.cases
    labels = label_counts(train)
    if labels:
        _print_labels(console, labels)
    structures = list(dict.fromkeys(label for case in checked.cases for label in case.masks))
    if structures:
        console.print(f"  masks of {len(structures)} structures: {', '.join(structures)}", markup=False)
    for reason, count in sorted(checked.findings.reasons().items()):
        console.print(f"  left out: {count} cases, {reason}", markup=False)
    for warning in checked.findings.warnings:
        console.print(f"  warning: {warning}", markup=False, soft_wrap=True)
    if checked.skipped or checked.passed_over:
        console.print(f"  skipped: {len(checked.skipped)} bad cases, {len(checked.passed_over)} other faults")
        lines = [line for lines in checked.skipped.values() for line in lines] + checked.passed_over
        for line in dict.fromkeys(lines):
            console.print(f"  skipped: {line}", markup=False, soft_wrap=True)


def print_problems(checked: Checked) -> None:
    """Every problem on a line of standard error."""
    console = Console(stderr=True, highlight=False)
    for line in lines_of_problems(checked):
        console.print(f"problem: {line}", markup=False, soft_wrap=True)


def print_prepared(console: Console, result: Prepared, out: Path) -> None:
    """What was written."""
    for path, count in result.records.items():
        new = "" if path in result.changed else " (unchanged)"
        console.print(f"  {out / path}: {count} records{new}", markup=False, soft_wrap=True)
    for task, maker in result.left_out.items():
        console.print(f"  {task} is made of {maker}", markup=False)


def print_summary(console: Console, results: Iterable[tuple[str, Prepared | str]]) -> None:
    """One line a data set; a text is what kept it from being prepared."""
    table = Table("data set", "cases", "manifests", "records", "left out", "skipped", "result", title="Prepared",
                  title_justify="left")  # fmt: skip
    for name, result in results:
        if isinstance(result, str):
            table.add_row(name, "", "", "", "", "", result)
            continue
        checked = result.checked
        wrong = len(list(lines_of_problems(checked)))
        state = f"{wrong} problem{'s' * (wrong > 1)}, nothing written" if wrong else "written"
        if not checked.problems and not result.changed:
            state = "unchanged"
        if result.left_out and not checked.problems:
            makers = ", ".join(dict.fromkeys(result.left_out.values()))
            state += f"; {len(result.left_out)} tasks are made of {makers}"
        table.add_row(
            name,
            _counts(counts_by_split(checked.cases)),
            str(len(result.records)),
            str(sum(result.records.values())),
            str(len(checked.findings.excluded)),
            str(len(checked.skipped)),
            state,
        )
    console.print(table)


def _print_labels(console: Console, labels: Sequence[LabelCount]) -> None:
    """Shares of positives, beside the published ones where a label set has them."""
    published = label_set_of([count.label for count in labels])
    columns = ["label", "positive", "negative", "unknown", "share"]
    table = Table(*columns, *(["published share"] if published else []), title="  labels (train)", title_justify="left")
    for count in labels:
        share = "-" if count.share is None else f"{count.share:.3f}"
        row = [count.label, str(count.positive), str(count.negative), str(count.unknown), share]
        if published:
            row.append("-" if count.published is None else f"{count.published:.3f}")
        table.add_row(*row)
    console.print(table)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())
