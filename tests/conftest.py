"""Settings of every test run."""

from __future__ import annotations

import os

import pytest
import torch

from training.script import leave

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a model hub fails at once
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # numbers to the bit are those of float32 on one kind of device
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings, and a shared machine is steadier

_STATUS = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _linear_restored():
    """DeepSpeed's ZeRO-3 puts a function of its own in place of torch's `linear`, which knows no quantised weights."""
    linear = torch.nn.functional.linear
    yield
    torch.nn.functional.linear = linear


@pytest.fixture
def clean_environment():
    """The loop joins a process group, which sets variables that later tests and subprocesses must not inherit."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, with an empty cache and nobody logged in."""
    from huggingface_hub import constants

    from tests.hub_server import PIECE, running_hub

    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its own protocol, its own servers
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Tests of the loop join a process group here, with which this process has waited for ever after the last test."""
    leave(config.stash.get(_STATUS, 1))
