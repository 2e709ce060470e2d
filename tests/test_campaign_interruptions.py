"""Kills and faults are known to have struck or not; those that did not are drawn again, and told apart in the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaign import interruptions
from tests.campaign.forked import Ended, forked
from tests.campaign.interruptions import ended_by, failing_writes, full_disks, judged_after, killed_runs
from tests.campaign.jobs import Job
from tests.campaign.verdicts import DIFFERENT, NOT_STRUCK, SAME, TRACEBACK, Verdict

# A command that writes 1,000 bytes, waits, flushes once and renames; a full or failing disk is told in one line.
_COMMAND = """
import os, sys, time
from pathlib import Path
output = Path(sys.argv[1])
output.mkdir(exist_ok=True)
try:
    with open(output / "a.part", "wb") as file:
        file.write(b"x" * 1000)
        file.flush()
        time.sleep(float(sys.argv[2]))
        os.fsync(file.fileno())
    os.replace(output / "a.part", output / "a")
except OSError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def _result(output: Path) -> bytes | None:
    return (output / "a").read_bytes() if (output / "a").is_file() else None


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "command.py").write_text(_COMMAND)
    (tmp_path / "place").mkdir()
    return str(tmp_path / "command.py")


@pytest.fixture
def job(command: str) -> Job:
    return Job("toy", lambda place, output: [command, str(output), "0"], _result)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_that_comes_too_late_has_not_struck(number: signal.Signals, command: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    in_time = forked([command, str(output), "30"], kill=(0.1, number))
    assert (in_time.struck, in_time.status, _result(output)) == (True, -number, None)
    too_late = forked([command, str(output), "0"], kill=(30.0, number))
    assert (too_late.struck, too_late.status, _result(output)) == (False, 0, b"x" * 1000)


def test_a_signal_that_did_not_end_the_run_is_no_strike() -> None:
    assert ended_by(signal.SIGKILL, -signal.SIGKILL, None)
    assert ended_by(signal.SIGTERM, 0, None)  # training has saved and has not gone on to its end
    assert not ended_by(signal.SIGTERM, 0, "whole")
    assert not ended_by(signal.SIGKILL, 0, "whole") and not ended_by(signal.SIGKILL, 1, None)
    assert not ended_by(signal.SIGTERM, None, None)


@pytest.mark.parametrize(("largest", "struck"), [(0, True), (999, True), (1000, False)])
def test_a_full_disk_strikes_where_a_file_would_be_larger(
    largest: int, struck: bool, command: str, tmp_path: Path
) -> None:
    ended = forked([command, str(tmp_path / "output"), "0"], largest_file=largest)
    assert (ended.struck, ended.status) == (struck, 2 if struck else 0)
    assert ("File too large" in ended.errors) == struck


@pytest.mark.parametrize(("name", "left", "struck"), [("replace", 1, True), ("fsync", 1, True), ("fsync", 2, False)])
def test_an_error_strikes_where_its_call_comes(
    name: str, left: int, struck: bool, command: str, tmp_path: Path
) -> None:
    ended = forked([command, str(tmp_path / "output"), "0"], fault=interruptions._failing(name, left))
    assert (ended.struck, ended.status) == (struck, 2 if struck else 0)
    assert ("Input/output error" in ended.errors) == struck


def _with_fault(job: Job, place: Path, output: Path, left: int) -> tuple[bool, Ended]:
    ended = job.run(place, output, fault=interruptions._failing("fsync", left))
    return ended.struck, ended


def test_what_does_not_strike_is_drawn_again(job: Job, tmp_path: Path) -> None:
    waits, lefts, seconds = iter(["2"]), iter([3, 2, 1]), []
    slow_at_first = replace(job, words=lambda place, output: [*job.words(place, output)[:2], next(waits, "0")])

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> tuple[bool, Any]:
        seconds.append(whole)
        return _with_fault(job, place, output, next(lefts))

    (verdict,) = interruptions._of_job("toy", slow_at_first, tmp_path / "place", 1, 0, interrupt)
    assert (verdict.outcome, len(seconds)) == (SAME, 3)
    assert seconds[1] < seconds[0] - 0.1, "a kill's time is drawn from the shortest whole run that was seen"


def test_what_never_strikes_is_told_apart(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptions, "DRAWS", 2)

    def interrupt(job: Job, place: Path, output: Path, whole: float, random: np.random.Generator) -> tuple[bool, Any]:
        return _with_fault(job, place, output, 2)

    (verdict,) = interruptions._of_job("toy", job, tmp_path / "place", 1, 0, interrupt)
    assert (verdict.outcome, verdict.survived, verdict.is_fault) == (NOT_STRUCK, False, False)


def test_a_run_that_fails_unstruck_is_a_fault() -> None:
    good, bad = Ended(0, "", ""), Ended(1, "", "Traceback (most recent call last):\nKeyError: 1\n")
    assert judged_after(False, good, "a", good, "a", "a")[0] == NOT_STRUCK
    assert judged_after(False, bad, None, good, "a", "a")[0] == TRACEBACK
    assert judged_after(False, good, "half", good, "a", "a")[0] == DIFFERENT
    assert judged_after(True, "SIGKILL", None, good, "a", "a")[0] == SAME


@pytest.mark.slow
@pytest.mark.parametrize("part", [killed_runs, full_disks, failing_writes])
def test_a_small_campaign_strikes(part: Callable[[int, int], Iterator[Verdict]]) -> None:
    verdicts = list(part(len(interruptions.JOBS), 0))
    assert [verdict.line() for verdict in verdicts if verdict.is_fault] == []
    assert any(verdict.survived for verdict in verdicts)
