"""Settings of every test run."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a model hub fails at once
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings, and a shared machine is steadier

_STATUS = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Leave as `training.script.run_script` does, for its reason: tests of the loop join a process group here.

    An interpreter that takes itself apart with one has been seen to wait for ever after the last test.
    """
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash.get(_STATUS, 1))
