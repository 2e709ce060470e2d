"""What stops a run: the sample or the option is named in one line, before the weights change."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from datasets.sampling import MixtureSampler
from tests import toy_task
from tests.launch import REPOSITORY
from tests.toy_runs import run, run_apart
from training import checkpoint_store
from training.loop import NonFiniteLossError

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_nan_stops_before_the_weights_change_and_names_the_sample(tmp_path, workers):
    sampler = MixtureSampler({"sine": 24}, micro_batch=2, accumulation_steps=2)
    bad = next(reference.index for reference in sampler.references(5, 0))  # in step 6, counted from 1
    options = ["--accumulation_steps", "2", "--micro_batch", "2", "--workers", workers, "--bad_index", str(bad)]
    seen_before = [r.index for step in range(5) for micro in range(2) for r in sampler.references(step, micro)]
    assert bad not in seen_before
    with pytest.raises(NonFiniteLossError, match=rf"step 6.*task sine, samples .*sine-{bad}\b.*loss nan"):
        run(tmp_path, *options)
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000004"


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 2), ("bf16", 2)])
def test_gradient_that_is_not_finite_stops_too(tmp_path, monkeypatch, precision, stage):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    plain = toy_task.ToyModel.forward

    models = []

    def forward(self, batch):
        output = plain(self, batch)
        models.append(self)
        if self.forwards == 6:
            output.loss = Poison.apply(output.loss)
        return output

    monkeypatch.setattr(toy_task.ToyModel, "forward", forward)
    with pytest.raises(NonFiniteLossError, match=r"step 6.*samples sine-\d+: the gradient"):
        run(tmp_path, "--precision", precision, "--zero_stage", str(stage))
    assert all(weight.isfinite().all() for weight in models[-1].parameters()), "the update is not applied"
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000004"


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "2"], ["--workers", "2", "--stuck_workers"]])
def test_unreadable_sample_is_one_clear_line(tmp_path, options):
    result = run_apart(tmp_path, "--unreadable_index", "3", "--max_iters", "30", *options)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert lines == ["error: sample_3.nii.gz: the file is truncated; fetch it again"]
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        environment = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "tests/toy_task.py", "--run_dir", str(tmp_path)]
        result = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
    assert result.returncode == 2
    assert f"error: port {port} is taken" in result.stderr and "--master_port" in result.stderr
    assert "Traceback" not in result.stderr
