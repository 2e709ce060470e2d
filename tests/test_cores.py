"""The cores that a process may use, which are not always the machine's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from datasets.cores import usable_cores
from tests.launch import REPOSITORY


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not give out single cores")
def test_a_process_on_one_core_counts_one() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{core}]); from datasets.cores import usable_cores; print(usable_cores())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
    assert usable_cores() == len(os.sched_getaffinity(0))
