"""A file where a folder belongs, and a place that cannot be written: one line that names it, whatever the option."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from training.script import _run


def _fail(*_: object) -> None:
    raise OSError("neither a path nor a number")


CASES: dict[str, Callable[[Path], object]] = {
    "a file for a folder": lambda path: path.mkdir(),
    "a file on the way": lambda path: (path / "deeper").mkdir(parents=True),
    "a folder for a file": lambda path: path.parent.write_text(""),
    "nowhere": lambda path: (path.parent / "no" / "where").read_text(),
    "a name too long": lambda path: (path.parent / ("x" * 300)).write_text(""),
    "under /proc": lambda path: os.mkdir("/proc/ctinstruct"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_path_that_cannot_be_used_is_named_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("keep")
    assert _run(lambda: CASES[case](path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {'/proc/ctinstruct' if case == 'under /proc' else tmp_path}")
    assert line.endswith("; give another path")
    assert path.read_text() == "keep"


def test_any_other_error_of_the_system_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_fail) == 1
    assert "Traceback" in capsys.readouterr().err
