"""Tables read back by parsers, and their figures against the numbers that went in."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from datasets.errors import InputError
from evaluation.metrics.summarize import summarize
from evaluation.report.result_tables import (
    benchmark_table,
    confidence_table,
    paper_tables,
    read_published,
    segmentation_table,
    summary_tables,
)
from evaluation.report.tables import (
    Table,
    escape_latex,
    format_estimate,
    print_table,
    to_csv,
    to_latex,
    to_markdown,
    write_tables,
)

AWKWARD = Table("50 % of a|b", ("Name", "x_1 & y"), (('a|b, "c"', "[0.1, 0.2]"), ("~^{}<>\\ –", "1#$")), ("a_note",))


@pytest.fixture(scope="module")
def summary() -> dict:
    scores = {"nsd": 0.5, "truth_ml": 1.0, "prediction_ml": 1.0}
    records = [
        {"id": "1", "patient_id": "p", "task": "open_vqa", "answer": "the liver", "prediction": "liver"},
        {"id": "2", "patient_id": "q", "task": "open_vqa", "answer": "a nodule", "prediction": "spleen"},
        {"id": "3", "patient_id": "q", "task": "open_vqa", "answer": "x", "error": "no such file"},
        {
            "id": "4",
            "patient_id": "p",
            "task": "segmentation",
            "labels": ["liver"],
            "segmentation": [{"label": "liver", "mask_path": "m.nii.gz", "dice": 0.75, "hd95": 12.34, **scores}],
            "dice_release_protocol": 0.99,
        },
        *(
            {
                "id": f"d{i}",
                "patient_id": f"d{i}",
                "task": "diagnosis",
                "label_set": "CT-RATE",
                "targets": {"Nodule": i % 2, "Rare": 0},
                "probabilities": {"Nodule": 0.1 + 0.2 * i, "Rare": 0.3},
            }
            for i in range(4)
        ),
    ]
    return summarize(records, resamples=50)


def cells_of_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace("\\|", "|").replace("&lt;", "<") for cell in row] for row in cells]


def test_markdown_and_csv_read_back_as_they_went_in() -> None:
    rows = cells_of_markdown(to_markdown(AWKWARD))
    assert rows[0] == list(AWKWARD.columns) and rows[1] == [":---", "---:"]
    assert [tuple(row) for row in rows[2:]] == list(AWKWARD.rows)
    read = list(csv.reader(io.StringIO(to_csv(AWKWARD))))
    assert [tuple(row) for row in read] == [AWKWARD.columns, *AWKWARD.rows]


def test_latex_escapes_every_special_character_and_balances() -> None:
    text = to_latex(AWKWARD)
    assert r"x\_1 \& y" in text and r"\textbackslash{}" in text and r"50 \% of a|b" in text and r"\{\}" in text
    assert r"{[0.1, 0.2]}" in text  # not the optional argument of the row before
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 and all(len(re.findall(r"(?<!\\)&", row)) == 1 for row in rows)
    unescaped = re.sub(r"\\[\\{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert escape_latex("a_b%") == r"a\_b\%"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(summary: dict, tmp_path: Path) -> None:
    body = "".join(to_latex(table) for table in [AWKWARD, *summary_tables(summary)])
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    (tmp_path / "t.tex").write_text(document)
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout[-2000:]


def test_figures_of_a_summary_stand_in_its_tables(summary: dict) -> None:
    main, diagnosis, segmentation = summary_tables(summary)
    figures = {(row[0], row[1]): row[2] for row in main.rows}
    assert figures["Open questions", "Exact match"].startswith("0.500 [0.000, 1.000]")
    assert figures["Open questions", "BERTScore"] == "not computed"
    assert figures["Segmentation", "HD95 (mm)"] == "12.3" and figures["Segmentation", "Dice"] == "0.750"
    assert figures["Diagnosis (CT-RATE)", "AUC"].startswith("0.750")
    assert any("1 failed" in note for note in main.notes)
    assert [row[0] for row in diagnosis.rows] == ["Nodule", "Rare", "Macro"]
    assert diagnosis.rows[1][diagnosis.columns.index("AUC")] == "–" and "Rare" in " ".join(diagnosis.notes)
    assert diagnosis.rows[0][1] == "2/4"
    assert segmentation.rows[0][0] == "liver" and segmentation.rows[-1][0] == "Mean of structures"
    assert [row[segmentation.columns.index("Dice (release protocol)")] for row in segmentation.rows] == [
        *("–", "0.990 ± 0.000"),  # it is of a whole answer, not of a structure
    ]


def test_tables_of_what_was_not_asked_have_no_rows() -> None:
    nothing = summarize([])
    assert summary_tables(nothing) == []
    assert segmentation_table(nothing).rows == ()


def test_estimates_without_interval_or_value() -> None:
    assert format_estimate({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.500 [0.400, 0.600]"
    assert format_estimate({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert format_estimate({"value": 0.5, "std": 0.25, "low": None, "high": None}) == "0.500 ± 0.250"
    assert format_estimate({"value": None, "reason": "one class"}) == "–" and format_estimate(None) == "–"


def test_benchmark_table_puts_published_figures_beside_ours_and_leaves_unknown_ones_empty(summary: dict) -> None:
    published = {
        "CT-RATE VQA": {"bleu_1": {"value": 0.61234, "source": "Table 2"}, "rouge_1": {"value": None, "source": ""}}
    }
    table = benchmark_table({"CT-RATE VQA": summary}, published)
    rows = {row[2]: row for row in table.rows}
    assert {"BLEU-1", "ROUGE-1", "Dice", "AUC"} <= set(rows)
    assert rows["BLEU-1"][-1] == "0.612" and rows["ROUGE-1"][-1] == "" and rows["Dice"][-1] == ""


@pytest.mark.parametrize(("control", "shown"), [("none", "0.612"), ("shuffled", None), ("no_image", None)])
def test_no_published_figure_stands_beside_a_control(summary: dict, control: str, shown: str | None) -> None:
    published = {"one": {"bleu_1": {"value": 0.612, "source": "Table 2"}}}
    run = {**summary, "run": {"control": control}}
    *_, text, _ = paper_tables({"one": run}, published)
    assert dict(zip(text.columns, text.rows[0], strict=True)).get("BLEU-1, published") == shown
    table = benchmark_table({"one": run}, published)
    row = next(row for row in table.rows if row[2] == "BLEU-1")
    assert dict(zip(table.columns, row, strict=True)).get("Published") == shown
    for notes in (text.notes, table.notes):
        assert ("Published: Table 2" in notes) == (shown is not None)


def test_paper_tables_have_benchmarks_down_and_metrics_across(summary: dict) -> None:
    published = {
        "one": {"dice_release_protocol": {"value": 0.912, "source": "A paper, table 3"}},
        "two": {"auc": {"value": None, "source": None}, "bleu_1": {"value": 0.1, "source": "not shown: no such task"}},
    }
    only_masks = {**summary, "tasks": {"segmentation": summary["tasks"]["segmentation"]}, "release_protocol": {}}
    diagnosis, segmentation, text, all_text = paper_tables({"one": only_masks, "two": summary}, published)
    assert [row[0] for row in segmentation.rows] == ["one", "two"] and [row[0] for row in diagnosis.rows] == ["two"]
    assert segmentation.columns[:3] == ("Benchmark", "Task", "Dice")
    row = dict(zip(segmentation.columns, segmentation.rows[0], strict=True))
    assert row["Dice (release protocol), published"] == "0.912" and row["HD95 (mm)"] == "12.3"
    assert segmentation.rows[1][-1] == "" and "Published: A paper, table 3" in segmentation.notes
    assert "AUC" in diagnosis.columns and "AUC, published" not in diagnosis.columns
    assert "two: 8 samples of 6 patients; 1 failed and are in no figure." in diagnosis.notes
    assert dict(zip(text.columns, text.rows[0], strict=True))["BLEU-1, published"] == "0.100"
    assert [row[:3] for row in all_text.rows] == [("two", "All text answers", "0.184 ± 0.184")]
    assert all(any(cell not in ("", "–") for cell in column) for column in zip(*diagnosis.rows, strict=True))
    assert paper_tables({"none": summarize([])}) == []


def test_published_figures_need_a_source(tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"b": {"bleu_1": {"value": 0.5, "source": "Table 1"}}}))
    assert read_published(path)["b"]["bleu_1"]["value"] == 0.5
    path.write_text(json.dumps({"b": {"bleu_1": {"value": 0.5}}}))
    with pytest.raises(InputError, match="b, bleu_1: a figure without a source"):
        read_published(path)
    with pytest.raises(InputError, match="cannot read"):
        read_published(tmp_path / "absent.json")


def test_confidences_are_sorted_and_called_from_one_half_on() -> None:
    table = confidence_table({"A": 0.2, "B": 0.9, "C": 0.5})
    assert table.rows == (("B", "0.900", "yes"), ("C", "0.500", "yes"), ("A", "0.200", "no"))


def test_printing_keeps_brackets_that_rich_would_read_as_markup() -> None:
    text = io.StringIO()
    print_table(AWKWARD, Console(file=text, width=100))
    assert "[0.1, 0.2]" in text.getvalue() and "50 % of a|b" in text.getvalue() and "a_note" in text.getvalue()


def test_files_are_written(summary: dict, tmp_path: Path) -> None:
    paths = write_tables(summary_tables(summary), tmp_path / "out")
    assert [path.name for path in paths] == [
        "tables.md", "tables.tex", "tables_results.csv", "tables_diagnosis_ct_rate.csv", "tables_segmentation.csv",
    ]  # fmt: skip
    assert all(path.stat().st_size > 100 for path in paths)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ("a", "b"), (("x",),))


def test_no_cell_becomes_a_formula_or_a_tag():
    cells = ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "-0.300 [-0.5, -0.1]", "0.5 ± 0.1", "<script>alert(1)</script>", "-"]
    table = Table("A <b>title</b>", ["cell"], [[cell] for cell in cells], notes=("<i>note</i>",))
    shown = [row[0] for row in csv.reader(io.StringIO(to_csv(table)))][1:]
    assert shown == ["'=1+1", "'+cmd|x", "'-2+3", "'@SUM(A1)", *cells[4:7], "'-"]
    assert "<" not in to_markdown(table).replace("&lt;", "")
