"""A file where a folder belongs, and a place that cannot be written: one line that names it, whatever the option."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.manifest_check import __main__ as manifest_check
from datasets.phantom import dataset as phantom
from datasets.phantom.people import dataset as people
from datasets.prepare import command, convert, instructions
from datasets.whole_files import write_whole_text
from evaluation import ablation, familiarity, phantom_benchmarks
from evaluation.audit import __main__ as audit
from evaluation.embed import __main__ as embed
from evaluation.learning import by_kind
from evaluation.learning import table as learning_table
from evaluation.report import html_report
from models import checkpoint
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


LONG = f"/tmp/{'x' * 300}"
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "check": (manifest_check.main, [LONG]),
    "convert": (convert.main, [LONG, "a.json", "--to", "ours"]),
    "questions": (instructions.main, ["vqa", LONG, "a.json"]),
    "prepare": (command.main, ["own", "--source", LONG, "--out", "out"]),
    "phantoms": (phantom.main, ["--out", "/proc/ctinstruct", "--count", "1"]),
    "people": (people.main, ["--out", "/proc/ctinstruct", "--count", "1"]),
    "model": (checkpoint.main, ["convert", LONG, "out"]),
    "report": (html_report.main, [LONG]),
    "audit": (audit.main, ["--data_set", "own", "--prepared", LONG]),
    "embeddings": (embed.main, ["--checkpoint", LONG, "--images", LONG]),
    "familiarity": (familiarity.main, ["--checkpoint", LONG, "--score", LONG]),
    "ablation": (ablation.main, [LONG]),
    "learning": (learning_table.main, ["--seed_runs", LONG, "--output", "out"]),
    "kinds": (by_kind.main, ["--evaluation", LONG, "--train", LONG]),
    "benchmarks": (phantom_benchmarks.main, ["--phantoms", LONG, "--out", "out"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_it_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main, arguments = COMMANDS[name]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(("error: /tmp/xxx", "error: /proc/ctinstruct")), line
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_the_folder_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^\.: is a folder already"):
        write_whole_text(Path(""), "a")


def test_any_other_error_of_the_system_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_fail) == 1
    assert "Traceback" in capsys.readouterr().err
