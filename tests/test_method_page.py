"""The pages point at lines that hold what they quote, and the command that puts the numbers right does so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import method_lines
from tests.method_lines import PAGES, main, references
from tests.parity import VECTORS

METHOD = PAGES[0]
VECTOR_NAME = re.compile(r"`((?:vision|anyres|llm|seg_loss|load|release)\w*\*?\w*\.(?:npz|json))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_line_holds_what_is_quoted(page: Path):
    found = references(page)
    assert len(found) > 20
    assert not [problem for reference in found if (problem := reference.problem())]


def test_every_row_of_the_table_says_where_and_how_it_is_known():
    """Rows of the one table: part, published, ours, switch, file and line, evidence."""
    rows = [line for line in METHOD.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    parts = [re.split(r"(?<!\\)\|", row.strip().strip("|")) for row in rows]
    table = [cells for cells in parts if len(cells) == 6 and not cells[0].strip().startswith(("**", "part", ":-"))]
    assert len(table) > 60
    for cells in table:
        assert cells[5].strip(), cells[0]
        assert "#L" in cells[4] or cells[4].strip() == "–", cells[0]


def test_vectors_that_are_named_as_evidence_exist():
    names = VECTOR_NAME.findall(METHOD.read_text(encoding="utf-8"))
    assert len(names) > 20
    assert not [name for name in names if not list(VECTORS.glob(name))]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two files and an empty page."""
    for folder in ("docs", "models"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models" / "one.py").write_text("import math\n\n\ndef area(r):\n    return math.pi * r * r\n")
    (tmp_path / "models" / "two.py").write_text("def area_of_all(rs):\n    return sum(map(area, rs))\n")
    monkeypatch.setattr(method_lines, "ROOT", tmp_path)
    return tmp_path


def page_with(project: Path, *lines: str) -> Path:
    page = project / "docs" / "page.md"
    page.write_text("\n".join(("# Page", *lines, "")))
    return page


def test_numbers_are_put_right(project: Path):
    page = page_with(project, "see [models/one.py:1](../models/one.py#L1) `def area` and", "no more")
    assert "is not on that line" in references(page)[0].problem()
    assert main([str(page)]) == 0
    assert "[models/one.py:4](../models/one.py#L4) `def area` and\nno more" in page.read_text(encoding="utf-8")
    assert references(page)[0].problem() is None


def test_a_reference_follows_what_moved_to_another_file(project: Path):
    page = page_with(project, "[models/old.py:9](../models/old.py#L9) `sum(map`")
    assert "no such file" in references(page)[0].problem()
    assert main([str(page)]) == 0
    assert "[models/two.py:2](../models/two.py#L2) `sum(map`" in page.read_text(encoding="utf-8")


def test_a_definition_is_followed_and_no_other_line(project: Path, capsys: pytest.CaptureFixture[str]):
    definition, line = (
        "[models/one.py:1](../models/one.py#L1) `def area_of_all`",
        "[models/one.py:1](../models/one.py#L1) `sum(map`",
    )
    page = page_with(project, definition, line)
    assert main([str(page)]) == 1
    shown = capsys.readouterr()
    assert "is now in models/two.py" in shown.out and "`sum(map` stands nowhere" in shown.err
    text = page.read_text(encoding="utf-8")
    assert "[models/two.py:1](../models/two.py#L1) `def area_of_all`" in text and line in text


def test_what_stands_nowhere_or_often_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]):
    nowhere, often = "[models/one.py:1](../models/one.py#L1) `def volume`", "[models/one.py:5](../models/one.py#L5) `r`"
    page = page_with(project, nowhere, often)
    before = page.read_text(encoding="utf-8")
    assert main([str(page)]) == 1
    shown = capsys.readouterr().err
    assert "`def volume` stands nowhere" in shown and "`r` stands on 3 lines" in shown
    assert page.read_text(encoding="utf-8") == before


def test_a_link_to_another_place_than_it_shows_is_found(project: Path):
    page = page_with(project, "[models/one.py:4](../models/two.py#L1) `def area`")
    assert "shows another place" in references(page)[0].problem()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_has_nothing_to_do_on_the_pages_as_they_are(page: Path):
    text, moves, problems = method_lines.corrected(page)
    assert not moves and not problems and text == page.read_text(encoding="utf-8")
