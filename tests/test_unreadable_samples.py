"""A sample that cannot be read: the run stops with what it learned, or takes another one in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from tests import toy_task
from training import checkpoint_store, look_ahead

HARD = ["--dropout", "0.3", "--augment", "--tasks", "two", "--accumulation_steps", "2", "--micro_batch", "2"]


pytestmark = pytest.mark.usefixtures("clean_environment")


def run(run_dir: Path, *options: str):
    return toy_task.main(["--run_dir", str(run_dir), *options])


def weights(run_dir: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step_{step:06d}" / "model" / "model.safetensors")


def test_an_unreadable_sample_leaves_what_was_learned_and_the_run_goes_on_exactly(tmp_path):
    """The step is not made; once the file is mended, the run continues as one that never met it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    hard = [*HARD, "--save_interval", "0"]
    run(whole, *hard)
    with pytest.raises(InputError, match=r"sample_9\.nii\.gz"):
        run(broken, *hard, "--unreadable_index", "9")
    step = checkpoint_store.step_of(checkpoint_store.latest_complete(broken))
    assert 0 < step < 12
    run(broken, *hard, "--resume")
    expected, found = weights(whole), weights(broken)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_sample_that_cannot_be_read_is_replaced_and_counted(tmp_path, workers, caplog, capsys):
    result = run(tmp_path, "--unreadable_index", "3", "--skip_bad_samples", "True", "--workers", workers)
    assert result.status == "finished"
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    skipped = sum(4 * row["train/skipped_samples"] for row in rows if "train/skipped_samples" in row)
    assert skipped == 1 and caplog.text.count("sample_3.nii.gz: the file is truncated") == 1
    assert "1 samples could not be used and were replaced" in capsys.readouterr().out


def test_where_no_sample_can_be_read_the_run_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task, "instead_of", lambda reference, size: reference)
    with pytest.raises(InputError, match=r"sample_3.*and 20 others in its place"):
        run(tmp_path, "--unreadable_index", "3", "--skip_bad_samples", "True", "--max_iters", "24")


@pytest.mark.parametrize("zero_stage", ["0", "2"])
def test_a_step_in_portions_is_as_a_whole_and_is_left_where_a_sample_cannot_be_read(tmp_path, monkeypatch, zero_stage):
    """Where it is left, the portions of the step before are done, with their gradients and the model's statistics."""
    forwards: list[list[str]] = []
    forward = toy_task.ToyModel.forward

    def noting(model, batch):
        forwards.append([name.partition("-")[2] for name in batch.sample_ids])
        return forward(model, batch)

    monkeypatch.setattr(toy_task.ToyModel, "forward", noting)
    steps = ["--max_iters", "3", "--accumulation_steps", "5", "--zero_stage", zero_stage, "--save_interval", "0"]
    hard = [*HARD, *steps]
    run(tmp_path / "whole", *hard)
    expected, first = weights(tmp_path / "whole", 3), {}
    for micro_batch, names in enumerate(forwards):
        first |= {name: micro_batch for name in names if name not in first}
    bad, met = next((name, at) for name, at in first.items() if at > 5 and at % 5 == 3)  # second of the second portion
    monkeypatch.setattr(look_ahead, "MOST_AHEAD", 2)
    run(tmp_path / "portions", *hard)
    forwards.clear()
    with pytest.raises(InputError, match=rf"sample_{bad}\.nii\.gz"):
        run(tmp_path / "broken", *hard, "--unreadable_index", bad)
    assert len(forwards) == met - 1
    assert checkpoint_store.step_of(checkpoint_store.latest_complete(tmp_path / "broken")) == met // 5
    run(tmp_path / "broken", *hard, "--resume")
    for name in ("portions", "broken"):
        found = weights(tmp_path / name, 3)
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
