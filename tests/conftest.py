"""Settings of every test run."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a model hub fails at once
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings, and a shared machine is steadier


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
