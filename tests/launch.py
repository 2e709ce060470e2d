"""Starting this project's scripts from a test: under the real DeepSpeed launcher, or as plain processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.distributed import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launch(*command: str | Path, ranks: int = 1) -> subprocess.Popen:
    """Start `command`, a script with its options, on the CPU: on `ranks` ranks of a thread each, or as plain python."""
    prefix = [sys.executable]  # the launcher starts its processes with the `python` that it runs under
    if ranks > 1:
        deepspeed = str(Path(sys.executable).with_name("deepspeed"))
        prefix += [deepspeed, "--num_accelerators", str(ranks), "--master_port", str(free_port())]
    return start(*prefix, *command)


def start(*words: str | Path, **variables: str) -> subprocess.Popen:
    """Start a program on the CPU, with these variables added to its environment and none of a launcher's."""
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    environment.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
    return subprocess.Popen(
        [*map(str, words)],
        cwd=REPOSITORY,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, to be ended as a whole
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> subprocess.CompletedProcess:
    """Wait for what `launch` started; a process that hangs is ended with all its ranks, and fails the test."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"hung for {timeout} s:\n{output}\n{errors}")
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(*command: str | Path, ranks: int = 1, timeout: float = 300) -> subprocess.CompletedProcess:
    """Start and wait."""
    return finish(launch(*command, ranks=ranks), timeout)


def run_well(*command: str | Path, ranks: int = 1, timeout: float = 300) -> None:
    """Start, wait, and fail the test where the status is not 0."""
    result = run(*command, ranks=ranks, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr


def kill_when_saved(run_dir: Path, step: int, *command: str | Path, ranks: int = 1, timeout: float = 300) -> None:
    """Start, and end all processes by SIGKILL as soon as the checkpoint of a step is there."""
    checkpoint, begun = run_dir / "checkpoints" / f"step_{step:06d}", time.monotonic()
    process = launch(*command, ranks=ranks)
    while not checkpoint.is_dir():
        if process.poll() is not None or time.monotonic() - begun > timeout:
            result = finish(process, 1)
            pytest.fail(f"no {checkpoint.name} was written:\n{result.stdout}\n{result.stderr}")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
