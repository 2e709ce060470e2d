"""Kills of two ranks hit whom they are meant for, and a few of them are survived."""

from __future__ import annotations

import os
import signal
import sys
from subprocess import Popen

import psutil
import pytest

from tests.campaign.ranks import VICTIMS, killed_ranks, sent, victims_of

# A starter with a launcher, which has two ranks; the first of them has a loader.
_SLEEP = "import time; time.sleep(60)"
_RANK = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_SLEEP!r}])"
_LAUNCHER = (
    "import subprocess, sys\n"
    f"ranks = [subprocess.Popen([sys.executable, '-c', code]) for code in ({_RANK!r}, {_SLEEP!r})]\n"
    "print('ready', flush=True)\n"
    "[rank.wait() for rank in ranks]"
)
_STARTER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_LAUNCHER!r}, 'deepspeed.launcher.launch'])"


def test_those_are_chosen_who_are_meant() -> None:
    with Popen([sys.executable, "-c", _STARTER], stdout=-1, text=True) as starter:
        assert starter.stdout is not None and starter.stdout.readline() == "ready\n"
        (launcher,) = psutil.Process(starter.pid).children()
        below = [launcher, *launcher.children(recursive=True)]
        first, second = sorted(launcher.children(), key=lambda process: process.create_time())
        chosen = {victim: victims_of(victim, starter.pid, below) for victim in VICTIMS}
        for process in psutil.Process(starter.pid).children(recursive=True):
            process.kill()
    assert chosen["the launcher"] == [launcher.pid]
    assert chosen["a rank"] in ([first.pid], [second.pid])
    assert set(chosen["everything"]) == {starter.pid, *(process.pid for process in below)}
    assert [victims_of(victim, starter.pid, []) for victim in VICTIMS] == [[], [], []]
    assert [victims_of(victim, starter.pid, below) for victim in VICTIMS[1:]] == [[], []]  # all are gone


def test_a_signal_to_what_has_ended_is_no_strike() -> None:
    with Popen([sys.executable, "-c", _SLEEP]) as process:
        assert sent(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its status
        assert not sent(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not sent(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_few_kills_of_two_ranks_are_survived() -> None:
    verdicts = list(killed_ranks(len(VICTIMS), seed=0))
    assert len(verdicts) == len(VICTIMS)
    assert [verdict.line() for verdict in verdicts if verdict.is_fault] == []
    assert any(verdict.survived for verdict in verdicts)
