"""Every task and benchmark with its files, fields and labels, as the Markdown of docs/data.md.

    python -m benchmarks.task_table --write docs/data.md

puts it between the two marks of that page; a test compares them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from datasets.catalog import PUBLISHED_TASKS
from datasets.vocabulary import diagnosis_facts, diseases_of
from evaluation.answering.benchmarks import BENCHMARKS, Benchmark

TUNING_TASKS = PUBLISHED_TASKS.with_name("instruction_tasks.json")
BEGIN, END = "<!-- tasks: begin -->", "<!-- tasks: end -->"
MOST_LABELS = 34  # named in a row; DAP's 191 are not
PRETRAINING_FIELDS = {
    "classification": "`image_path`, `disease_label`",
    "image_text": "`image_path`, `report`",
    "segmentation": "`image_path`, `labels`, `mask_path`, `mask_values`",
}
QUESTION_FIELDS = {
    "text": "`question`, `image_path`, `answer`; `choices`",
    "diagnosis": "`question`, `image_path`, `answer`, `label_set`, `targets`",
    "segmentation": "`question`, `image_path`, `answer`, `labels`, `mask_path`, `mask_values`",
}


def pretraining_tables() -> str:
    """The 39 tasks by kind: weight and labels, with the fields of a record above."""
    tasks = json.loads(PUBLISHED_TASKS.read_text(encoding="utf-8"))
    parts = []
    for kind, fields in PRETRAINING_FIELDS.items():
        rows = [f"{kind.replace('_', ' and ').capitalize()}, fields {fields}:", ""]
        rows += ["| task | weight | labels |", "| :--- | ---: | :--- |"]
        rows += [
            f"| `{task['name']}` | {task['weight']} | {_labels(task)}{'; 2D images' if task['is_2d'] else ''} |"
            for task in tasks
            if task["kind"] == kind
        ]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _labels(task: dict) -> str:
    labels = task["labels"]
    if task["kind"] == "classification":
        for name in diagnosis_facts():
            if [label.lower() for label in labels] == [label.lower() for label in diseases_of(name)]:
                return f"the {len(labels)} of {name}, below; any number of them (BCE)"
    how = {"CE": "; one of them (CE)", "BCE": "; any number of them (BCE)"}.get(task["loss"], "")
    if len(labels) > MOST_LABELS:
        return f"{len(labels)} structures, {', '.join(labels[:3])}, ...: `data/pretraining_tasks.json`"
    return (", ".join(labels) or "none") + how


def tuning_table() -> str:
    """The eight tuning tasks: file, weight, fields."""
    rows = ["| file | weight | fields |", "| :--- | ---: | :--- |"]
    for task in json.loads(TUNING_TASKS.read_text(encoding="utf-8")):
        rows.append(f"| `{task['name']}.json` | {task['weight']} | {QUESTION_FIELDS[task['kind']]} |")
    return "\n".join(rows)


def benchmark_table() -> str:
    """The eight benchmarks: file, kinds of question, fields, and what may be asked for."""
    rows = ["| file | `task` | fields | of |", "| :--- | :--- | :--- | :--- |"]
    for benchmark in BENCHMARKS:
        tasks = ", ".join(f"`{task}`" for task in benchmark.tasks)
        kind = benchmark.tasks[0] if benchmark.tasks[0] in QUESTION_FIELDS else "text"
        rows.append(f"| `{benchmark.manifest}` | {tasks} | {QUESTION_FIELDS[kind]} | {_asked(benchmark)} |")
    return "\n".join(rows)


def _asked(benchmark: Benchmark) -> str:
    if benchmark.label_set:
        return f"`label_set` {benchmark.label_set}"
    if benchmark.tasks == ("segmentation",):
        return ", ".join(benchmark.structures) or "any structure"
    alone: dict[tuple[str, ...], str] = {("open_vqa",): "open questions alone", ("report_generation",): "reports"}
    return alone.get(benchmark.tasks, "reports and questions")


def label_sets() -> str:
    """The diseases of each label set, in the order of its head."""
    return "\n".join(
        f"- {name}, {len(diseases_of(name))} diseases: {', '.join(diseases_of(name))}." for name in diagnosis_facts()
    )


def tables() -> str:
    """All of it, as it stands between the marks."""
    parts = (
        ("### Pretraining: `<task>_train.json`, `<task>_val.json`, `<task>_test.json`", pretraining_tables()),
        ("### Label sets of diagnosis", label_sets()),
        ("### Instruction tuning", tuning_table()),
        ("### Benchmarks", benchmark_table()),
    )
    return "\n\n".join(f"{heading}\n\n{text}" for heading, text in parts)


def with_tables(page: str) -> str:
    """A page with the tables put between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a page with both marks; the tables are printed otherwise")
    options = parser.parse_args(arguments)
    if options.write is None:
        print(tables())
    else:
        options.write.write_text(with_tables(options.write.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
