"""Checkpoints that are written while training goes on: what they hold, and what becomes of an error."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from datasets.errors import CheckpointError, InputError
from models.checkpoints.pretrained_vision import load_pretraining, save_pretraining
from models.configuration import vision_preset
from models.pretraining import PretrainingModel
from models.vision import VisionModel
from tests.launch import run
from training.background_saves import BackgroundSaves
from training.checkpoint_store import find_problem, latest_complete, load_rank_state
from training.distributed import Ranks
from training.snapshot import copied, snapshot

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.config = {"width": 3}


def test_a_snapshot_stays_as_the_model_was() -> None:
    model = Tied()
    model.first.register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = snapshot(model)
    with torch.no_grad():
        for tensor in [*model.parameters(), model.norm.running_mean]:
            tensor.add_(1)
    after = held.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert isinstance(held, Tied) and held.config == {"width": 3}
    assert held.second.weight is held.first.weight and held.first.weight is not model.first.weight
    assert not held.first._forward_hooks and len(model.first._forward_hooks) == 1
    assert {name for name, _ in held.named_parameters()} == {name for name, _ in model.named_parameters()}


def test_a_snapshot_is_written_as_the_model_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PretrainingModel(VisionModel(vision_preset("tiny")))
    save_pretraining(model, tmp_path / "model")
    held = snapshot(model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:  # training changes no other
                weight.zero_()
    save_pretraining(held, tmp_path / "held")
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "held").iterdir())
    for file in files:
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "held" / file).read_bytes()
    assert any(weight.any() for weight in load_pretraining(tmp_path / "held").parameters())


def test_a_copied_state_has_tensors_of_its_own_and_shares_what_was_shared() -> None:
    tensor = torch.arange(3.0)
    state = {"a": [tensor, (tensor, 2)], "b": {"c": "d"}}
    copy = copied(state)
    tensor.add_(1)
    assert copy["b"] == {"c": "d"} and copy["a"][1][1] == 2
    assert torch.equal(copy["a"][0], torch.arange(3.0)) and copy["a"][1][0] is copy["a"][0]


def begin(saves: BackgroundSaves, step: int, model: nn.Module, save_model) -> Path:
    def capture() -> dict[str, torch.Tensor]:
        return copied({"weight": model.first.weight})

    return saves.begin(step, model=model, save_model=save_model, capture=capture, description={"step": step})


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    model, saves, go_on = Tied(), BackgroundSaves(tmp_path, ALONE, keep=2), threading.Event()
    truth = model.first.weight.detach().clone()

    def slow(held: nn.Module, folder: Path) -> None:
        assert go_on.wait(30)
        save_file({"weight": held.first.weight.detach().clone()}, folder / "model.safetensors")

    final = begin(saves, 7, model, slow)
    with torch.no_grad():
        model.first.weight.zero_()  # the loop's next steps
    assert latest_complete(tmp_path) is None and not final.exists()
    go_on.set()
    saves.settle()
    assert latest_complete(tmp_path) == final and find_problem(final) is None
    assert torch.equal(load_file(final / "model" / "model.safetensors")["weight"], truth)
    assert torch.equal(load_rank_state(final, 0)["weight"], truth)


def test_an_error_is_raised_at_the_next_and_harms_no_older_one(tmp_path: Path, capsys) -> None:
    model, saves = Tied(), BackgroundSaves(tmp_path, ALONE, keep=2)

    def fine(held: nn.Module, folder: Path) -> None:
        (folder / "a").write_text("a")

    def full(held: nn.Module, folder: Path) -> None:
        raise CheckpointError(f"{folder}: no room; make room")

    first = begin(saves, 1, model, fine)
    begin(saves, 2, model, full)
    with pytest.raises(CheckpointError, match="make room"):
        begin(saves, 3, model, fine)
    assert "checkpoint of step 2: " in capsys.readouterr().out
    assert latest_complete(tmp_path) == first
    saves.settle()  # it is told once
    third = begin(saves, 3, model, fine)
    saves.close()
    assert latest_complete(tmp_path) == third
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000001", "step_000003"]


def test_no_memory_for_a_copy_is_one_line(tmp_path: Path) -> None:
    def capture() -> dict[str, torch.Tensor]:
        return {"weight": torch.empty(2**60)}

    saves = BackgroundSaves(tmp_path, ALONE, keep=2)
    with pytest.raises(InputError, match=r"no room for a second copy of weights.*leave out --background_saves"):
        saves.begin(1, model=Tied(), save_model=lambda *_: None, capture=capture, description={})
    saves.settle()


def toy(run_dir: Path, *options: str) -> subprocess.CompletedProcess:
    return run("tests/toy_task.py", "--run_dir", str(run_dir), "--max_iters", "12", *options, ranks=2)


def test_one_rank_that_cannot_write_ends_both_with_its_line(tmp_path: Path) -> None:
    """Nobody waits for the part that does not come, which would be longer than a launch may take here."""
    ended = toy(tmp_path, "--background_saves", "--unwritable_at", "4")
    assert ended.returncode != 0 and "error: " in ended.stderr and "cannot be written; make room" in ended.stderr
    assert "warning: checkpoint of step 4: " in ended.stdout
    assert latest_complete(tmp_path) is None


def test_an_error_while_a_checkpoint_is_written_leaves_it_whole(tmp_path: Path) -> None:
    ended = toy(tmp_path, "--background_saves", "--slow_finish", "4", "--nan_at", "5")
    assert ended.returncode != 0 and "loss nan" in ended.stderr
    newest = latest_complete(tmp_path)
    assert newest is not None and newest.name == "step_000004"


def test_two_ranks_save_in_the_background_what_they_save_at_once(tmp_path: Path) -> None:
    """Killed in the thread that writes step 8, resumed from step 4, and at the end the bits of a run that waited."""
    options = ["--tasks", "two", "--accumulation_steps", "2", "--dropout", "0.2"]

    def train(name: str, *more: str) -> subprocess.CompletedProcess:
        return toy(tmp_path / name, *options, *more)

    whole = train("whole")
    assert whole.returncode == 0, whole.stderr
    killed = train("broken", "--background_saves", "--kill_in_save", "8")
    newest = latest_complete(tmp_path / "broken")
    assert killed.returncode != 0 and newest is not None and newest.name == "step_000004"
    resumed = train("broken", "--background_saves", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for step in (8, 12):
        folders = [tmp_path / name / "checkpoints" / f"step_{step:06d}" for name in ("whole", "broken")]
        threads = [(folder / "model" / "thread.txt").read_text() for folder in folders]
        assert threads == ["MainThread", f"checkpoint of step {step}"]
        models = [load_file(folder / "model" / "model.safetensors") for folder in folders]
        assert models[0].keys() == models[1].keys()
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
        for rank in range(2):
            first, second = (load_rank_state(folder, rank)["weights"] for folder in folders)
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
