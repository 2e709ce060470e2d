"""A folder is written by one run at a time, and a crash leaves no lock behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.errors import InputError
from training.distributed import Ranks
from training.folder_lock import lock_folder, locked

HOLD = "import sys, time; from pathlib import Path; from training.folder_lock import lock_folder\n" + (
    "held = lock_folder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"{folder}: process {holder.pid} on .+ is writing there"):
            lock_folder(folder)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock_folder(folder).close()


def test_inside_one_process_too_and_only_until_the_end(tmp_path: Path) -> None:
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    with (
        locked([tmp_path / "a", tmp_path / "b"], ranks),
        pytest.raises(InputError, match="is writing there"),
        locked([tmp_path / "b"], ranks),
    ):
        pass
    with locked([tmp_path / "b"], ranks):
        pass
