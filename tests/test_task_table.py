"""docs/data.md lists every task, file name and field, as data/*.json have them."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.task_table import BEGIN, END, main, with_tables
from datasets.catalog import published_tasks
from datasets.mixture import published_weights
from evaluation.answering.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data.md"


def test_the_page_has_the_tables_as_they_are_written_now() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "python -m benchmarks.task_table --write docs/data.md"


def test_every_task_stands_there_with_its_weight_and_labels() -> None:
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    for task in json.loads((ROOT / "data" / "pretraining_tasks.json").read_text()):
        row = cells[task["name"]]
        assert f"| {task['weight']} |" in row
        shown = len(task["labels"]) <= 34 and task["name"] not in (
            "RadGenome_disease_classification",
            "RadChestCT_disease_classification",
        )
        assert all(label in row for label in task["labels"]) == (shown or not task["labels"])
    for name, weight in published_weights().items():
        assert f"| {weight:g} |" in cells[f"{name}.json"].replace("1.0", "1")
    assert cells.keys() == {
        *(task.name for task in published_tasks()),
        *(f"{name}.json" for name in published_weights()),
        *(benchmark.manifest for benchmark in BENCHMARKS),
    }
    assert "the 18 of CT-RATE" in cells["RadGenome_disease_classification"]


def test_writing_replaces_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    main(["--write", str(page)])
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n") and written.endswith(f"{END}\nafter\n") and "old\n" not in written
    main(["--write", str(page)])
    assert page.read_text(encoding="utf-8") == written
