"""Two ranks on the CPU, through the real DeepSpeed launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from datasets.sampling import MixtureSampler
from tests.launch import finish, launch, run, run_well
from training import checkpoint_store
from training.look_ahead import MOST_AHEAD


def toy(run_dir: Path, *options: str) -> list[str]:
    return ["tests/toy_task.py", "--run_dir", str(run_dir), *options]


def launched_for_ever(run_dir: Path, *more: str) -> subprocess.Popen:
    """Two ranks with a data worker each, which have done some steps and would not end by themselves."""
    options = ["--max_iters", "1000000", "--save_interval", "0", "--workers", "1", "--log_interval", "20"]
    process = launch(*toy(run_dir, *options, *more), ranks=2)
    line = ""
    while not line.startswith("step "):
        line = process.stdout.readline()
        assert line, process.stderr.read()
    return process


def train(run_dir: Path, *options: str, ranks: int = 2) -> subprocess.CompletedProcess:
    return run(*toy(run_dir, *options), ranks=ranks)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    saved = load_file(run_dir / "checkpoints" / "step_000012" / "model" / "model.safetensors")
    return {name: tensor for name, tensor in saved.items() if name != "running_mean"}  # each rank has its own


def test_two_ranks_equal_one_process_with_twice_the_accumulation(tmp_path):
    two = train(tmp_path / "two", "--micro_batch", "2")
    one = train(tmp_path / "one", "--micro_batch", "2", "--accumulation_steps", "2", ranks=1)
    assert two.returncode == 0, two.stderr
    assert one.returncode == 0, one.stderr
    shown = [line.split("  lr")[0] for line in one.stdout.splitlines() if line.startswith("step ")]
    # one rank logs, and what it logs is the mean over both
    assert len(shown) == 3 and all(two.stdout.count(line) == 1 for line in shown), two.stdout
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_tasks_with_different_parameters_and_a_resume(tmp_path):
    """Two tasks with a head each under ZeRO-2: a killed and resumed run equals an uninterrupted one, bit for bit."""
    options = ["--tasks", "two", "--accumulation_steps", "2", "--dropout", "0.2", "--workers", "1"]
    whole = train(tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    assert "product" in whole.stdout and "sine" in whole.stdout
    killed = train(tmp_path / "broken", *options, "--kill_in_save", "8")
    assert killed.returncode != 0
    assert checkpoint_store.latest_complete(tmp_path / "broken").name == "step_000004"
    resumed = train(tmp_path / "broken", *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "broken").items():
        assert torch.equal(tensor, expected[name]), name

    alone = train(tmp_path / "broken", *options, "--resume", ranks=1)
    assert alone.returncode == 2
    assert "a step had 4 micro-batches, counted over all ranks, and now has 2: set --accumulation_steps" in alone.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [("--bad_index", "loss nan"), ("--unreadable_index", "the file is truncated")],
    ids=["nan", "unreadable"],
)
def test_a_bad_sample_on_one_rank_stops_both_with_one_line(tmp_path, option, message):
    begun = time.monotonic()
    failed = train(tmp_path, option, "7", "--max_iters", "40", "--save_interval", "0")
    assert failed.returncode == 2, failed.stderr
    lines = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0] and ("sine-7" in lines[0] or "sample_7" in lines[0])
    assert "Traceback" not in failed.stderr
    assert time.monotonic() - begun < 200, "a rank waited for the one that was gone"  # half of it is starting up


def test_a_bad_sample_late_in_a_long_step_stops_both_with_what_they_had_learned(tmp_path):
    """More micro-batches than are read ahead, and the sample is of the second rank's 36th of the second step."""
    at = {"accumulation_steps": 40, "rank": 1, "world_size": 2}
    (bad,) = MixtureSampler({"sine": 400}, {"sine": 1.0}, micro_batch=1, **at).references(1, 35)
    steps = ["--samples", "400", "--accumulation_steps", "40", "--micro_batch", "1", "--max_iters", "4"]
    failed = train(tmp_path, *steps, "--save_interval", "0", "--unreadable_index", str(bad.index))
    assert MOST_AHEAD <= 35 and failed.returncode == 2, failed.stderr
    lines = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and f"sample_{bad.index}.nii.gz: the file is truncated" in lines[0]
    assert checkpoint_store.step_of(checkpoint_store.latest_complete(tmp_path)) == 1


def test_sigterm_to_all_processes_saves_on_all_ranks(tmp_path):
    """As a batch system ends a job: to the launcher and, through it once more, to every process and data worker."""
    process = launched_for_ever(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    finish(process)
    checkpoint = checkpoint_store.latest_complete(tmp_path)
    assert checkpoint is not None
    assert (checkpoint / "training" / "rank_001.pt").is_file()


def test_sigterm_to_one_rank_ends_both_before_the_same_micro_step(tmp_path):
    process = launched_for_ever(tmp_path, "--accumulation_steps", "5")
    children = psutil.Process(process.pid).children(recursive=True)
    second = next(child for child in children if child.environ().get("RANK") == "1")
    second.send_signal(signal.SIGTERM)
    finish(process)
    checkpoint = checkpoint_store.latest_complete(tmp_path)
    assert checkpoint is not None and (checkpoint / "training" / "rank_001.pt").is_file()


def test_the_first_rank_waits_for_one_that_has_yet_to_hear_that_the_run_ends(tmp_path):
    """The checkpoint is there, so nothing is left to do together; but the store they ask goes with the first rank."""
    run_well(*toy(tmp_path, "--save_interval", "4", "--terminate_at", "4", "--late_seconds", "2"), ranks=2)
    assert checkpoint_store.step_of(checkpoint_store.latest_complete(tmp_path)) == 4


def test_ranks_whose_launcher_is_killed_save_and_end(tmp_path):
    process = launched_for_ever(tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    launcher = next(child for child in children if "deepspeed.launcher.launch" in child.cmdline())
    below = launcher.children(recursive=True)
    launcher.kill()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert len(below) >= 4 and not alive, "ranks and their loaders"
    finish(process)
    checkpoint = checkpoint_store.latest_complete(tmp_path)
    assert checkpoint is not None and (checkpoint / "training" / "rank_001.pt").is_file()
