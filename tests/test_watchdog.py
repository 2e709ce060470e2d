"""A step that does not end is told of, with what every thread was doing, and the run goes on when it ends after all."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from tests import toy_task
from training.watchdog import Watchdog, following, progressed

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_a_step_that_sleeps_is_told_of_and_the_run_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--sleep_at", "3", "--sleep_seconds", "1.2", "--watchdog_minutes", f"{0.5 / 60}", "--max_iters", "4")
    assert toy_task.main(["--run_dir", str(tmp_path), *options]).status == "finished"
    written = (tmp_path / "hang_rank_0.txt").read_text()
    times = written.count("rank 0: no step has ended for")
    assert times >= 1  # a busy machine may be as slow in other steps
    assert "in on_forward" in written.partition("since step 2")[2]  # where it sleeps
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: rank 0: no step")]
    assert len(told) == times
    assert str(tmp_path / "hang_rank_0.txt") in told[0]


def test_steps_that_end_are_no_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Watchdog(tmp_path, 1, 3.0 / 60) as watchdog:
        for step in range(8):
            time.sleep(0.5)
            watchdog.step_ended(step)
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_a_long_evaluation_that_goes_on_is_no_hang(tmp_path: Path) -> None:
    options = ("--evaluation_seconds", "2.5", "--watchdog_minutes", f"{1.5 / 60}", "--max_iters", "2")
    done = toy_task.main(["--run_dir", str(tmp_path), *options, "--eval_interval", "2"])
    told = tmp_path / "hang_rank_0.txt"  # a busy machine may be as slow in steps
    assert done.status == "finished" and not (told.exists() and "in evaluate" in told.read_text())


def test_what_stands_still_in_an_evaluation_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with Watchdog(tmp_path, 0, 0.4 / 60) as watchdog:
        with following(model):
            begun = watchdog.last
            model(torch.zeros(1, 2))
            assert watchdog.last > begun
            patience = time.monotonic() + 20  # of a busy machine
            while not (tmp_path / "hang_rank_0.txt").exists() and time.monotonic() < patience:
                time.sleep(0.05)
        begun = watchdog.last
        model(torch.zeros(1, 2))
        assert watchdog.last == begun and not model[0]._forward_hooks
        progressed()
        assert watchdog.last > begun
    assert "no step has ended" in capsys.readouterr().err and (tmp_path / "hang_rank_0.txt").exists()
    progressed()  # of a process without one: nothing


def test_without_minutes_there_is_no_thread(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 0, 0.0):
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_more_minutes_than_a_thread_can_wait(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 0, 1e300):
        time.sleep(0.05)
        assert "watchdog" in [thread.name for thread in threading.enumerate()]


def test_a_place_that_cannot_be_written_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hang_rank_2.txt").mkdir()
    with Watchdog(tmp_path, 2, 0.1 / 60, step=7):
        said, begun = "", time.monotonic()
        while "\n" not in said and time.monotonic() - begun < 20:
            time.sleep(0.05)
            said += capsys.readouterr().err
    lines = said.splitlines()
    assert lines and "since step 7" in lines[0] and "could not be written" in lines[0]
