"""Measurements in processes of their own, so that the memory of each is its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def json_of_process(module: str, arguments: Sequence[str]) -> tuple[Any, str]:
    """What `python -m module` prints as JSON in its last line, and nothing; or None and the last line of its error."""
    command = [sys.executable, "-m", module, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        return None, (finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"])[-1]
    return json.loads(finished.stdout.splitlines()[-1]), ""
