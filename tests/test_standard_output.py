"""A reader of the output that leaves early, as `head` does: one line and status 2, of every script and command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.launch import REPOSITORY

# The real module takes seconds to import torch, and has no part in this.
SCRIPT = """
import sys, types
sys.modules["training.distributed"] = types.SimpleNamespace(shutdown=lambda: None, is_shared=lambda error: False)
from training.script import run_script
def main():
    {body}
run_script(main)
"""
COMMAND = """
import sys
from datasets.commands import told
@told
def main():
    {body}
    return 0
sys.exit(main())
"""
PRINTS = "print('more')"
PRINTS_AT_ONCE = "print('more', flush=True)"
WRONG = "print('more'); from datasets.errors import InputError; raise InputError('a.json: no such manifest')"
GONE = "error: standard output: nobody reads it any more, and what was still to be printed is lost; print to a file\n"

each = pytest.mark.parametrize("program", [SCRIPT, COMMAND], ids=["script", "command"])


def run(
    program: str, body: str, output: int, error: int = subprocess.PIPE, option: str = "-B"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, option, "-c", program.format(body=body)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, stdout=output, stderr=error, text=True, timeout=60, check=False
    )


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe to write to, whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@each
@pytest.mark.parametrize(
    ("body", "option"),
    [(PRINTS_AT_ONCE, "-B"), (PRINTS, "-B"), (PRINTS, "-u")],
    ids=["flushed", "buffered to the end", "unbuffered"],
)
def test_a_reader_that_has_gone_is_told_in_one_line(program: str, body: str, option: str, unread: int) -> None:
    done = run(program, body, unread, option=option)
    assert (done.stderr, done.returncode) == (GONE, 2)


@each
def test_another_complaint_is_told_alone(program: str, unread: int) -> None:
    done = run(program, WRONG, unread)
    assert (done.stderr, done.returncode) == ("error: a.json: no such manifest\n", 2)


@each
def test_the_status_is_the_same_where_nobody_reads_the_line_either(program: str, unread: int) -> None:
    """As after ``2>&1 | head``."""
    assert run(program, PRINTS, unread, error=unread).returncode == 2
    assert run(program, WRONG, unread, error=unread).returncode == 2


@each
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_output_that_goes_to_a_full_disk(program: str) -> None:
    with open("/dev/full", "w") as full:
        done = run(program, PRINTS, full.fileno())
    said = "error: a file of this run: No space left on device; mend that and start again\n"
    assert (done.stderr, done.returncode) == (said, 2)


@each
def test_another_pipe_that_breaks_is_a_failure_of_the_program(program: str, unread: int) -> None:
    body = "import os; reader, writer = os.pipe(); os.close(reader); os.write(writer, b'more')"
    done = run(program, body, subprocess.PIPE)
    assert done.returncode == 1 and "BrokenPipeError" in done.stderr and "Traceback" in done.stderr


@each
def test_what_is_read_is_printed_to_the_end(program: str) -> None:
    done = run(program, PRINTS, subprocess.PIPE)
    assert (done.stdout, done.stderr, done.returncode) == ("more\n", "", 0)
