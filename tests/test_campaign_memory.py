"""Memory does not grow with questions, volumes load in little more than twice their size, long manifests start soon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.campaign import memory
from tests.campaign.memory import in_a_child, loading_share
from tests.campaign.verdicts import MEMORY, SAME, TRACEBACK


def _keep(size: int) -> float:
    held = memory._held()
    kept = np.ones(size, np.uint8)
    return (memory._held() - held) / kept.nbytes


def test_memory_of_a_child_is_measured() -> None:
    size = 64 * 2**20
    found = in_a_child(lambda: _keep(size))
    assert isinstance(found, float) and 0.95 < found < 1.2


def test_too_much_is_a_fault_and_so_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory._judged("a", 0, lambda: 1.0, 2.0, MEMORY).outcome == SAME
    assert memory._judged("a", 0, lambda: 3.0, 2.0, MEMORY).outcome == MEMORY
    assert memory._judged("a", 0, lambda: 1 / 0, 2.0, MEMORY).outcome == TRACEBACK
    assert capsys.readouterr().out.count("memory: a 0") == 2


@pytest.mark.parametrize("slope", [1.0, 0.7])
def test_a_volume_loads_within_its_share_of_memory(slope: float, tmp_path: Path) -> None:
    found = in_a_child(lambda: loading_share(tmp_path, (512, 256, 250), slope))
    assert isinstance(found, float) and 1.0 <= found <= memory.MOST_OF_SIZE


@pytest.mark.slow
def test_a_small_campaign_of_much(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = list(memory.large_work(100, seed=0))
    assert [verdict.line() for verdict in verdicts if not verdict.survived] == []
    assert {verdict.target for verdict in verdicts} >= {"questions", "long manifests"}
