"""A training script in small: a model of two heads, data made by a rule, and the real loop, for the tests of training/.

Started as a script it trains as a user's script does:  python tests/toy_task.py --run_dir DIR --max_iters 20
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from datasets.errors import CheckpointError, InputError
from datasets.sampling import MixtureSampler, SampleReference, instead_of
from training import background_saves, checkpoint_store, distributed, loop, random_state, stopping
from training.arguments import parse
from training.loop import TrainingResult, train
from training.script import run_script
from training.settings import TrainingSettings


@dataclass
class ToySettings(TrainingSettings):
    """Train the toy model."""

    max_iters: int = 12
    learning_rate: float = 0.01
    warmup: float = 3.0
    log_interval: int = 4
    save_interval: int = 4
    samples: int = 24  # in each task
    tasks: Literal["one", "two"] = "one"  # two tasks use different heads
    mode: Literal["one_task", "mixed"] = "one_task"  # how tasks are mixed
    dropout: float = 0.0  # of the hidden layer
    augment: bool = False  # add noise drawn by Python, numpy and torch to the inputs
    bad_index: int = -1  # sample whose target is NaN
    unreadable_index: int = -1  # sample that raises an InputError
    stuck_workers: bool = False  # the process that reads that sample can never end by itself
    unfreeze: bool = True  # train the first layer
    kill_in_save: int = 0  # SIGKILL itself in the middle of saving this step
    kill_at: int = 0  # SIGKILL itself in the forward pass of this step
    terminate_at: int = 0  # SIGTERM itself in the forward pass of this step
    sleep_at: int = 0  # this step takes `sleep_seconds`
    sleep_seconds: float = 1.0
    evaluation_seconds: float = 0.0  # an evaluation goes on so long, with a little computed every tenth of a second
    draw_ranks: int = 0  # micro-batches of a draw; 0: the ranks that there are
    groups: bool = False  # the head gets a tenth of the learning rate
    nan_at: int = 0  # the step whose loss is not finite
    unwritable_at: int = 0  # the step whose checkpoint the last rank cannot write
    slow_finish: float = 0.0  # seconds that the first rank takes longer to make a checkpoint whole
    late_seconds: float = 0.0  # by which the last rank asks later than the others whether the run ends


@dataclass
class ToyBatch:
    """Inputs (n, 6), targets (n,) and the head of each sample."""

    inputs: torch.Tensor
    targets: torch.Tensor
    heads: torch.Tensor
    sample_ids: list[str]
    task: str


class ToyModel(nn.Module):
    """Linear, a running mean (a buffer that changes), GELU, dropout, and one linear head a task."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.register_buffer("running_mean", torch.zeros(8))
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])
        self.forwards = 0
        self.factor = 1.0

    def forward(self, batch: ToyBatch) -> SimpleNamespace:
        self.forwards += 1
        self.on_forward(self.forwards)
        hidden = self.body(batch.inputs.to(self.body.weight.dtype))
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(hidden.detach().mean(0).to(self.running_mean), 0.1)
        hidden = self.dropout(nn.functional.gelu(hidden))
        if batch.task == "mixed":
            predictions = torch.cat([head(hidden) for head in self.heads], dim=1)
            predictions = predictions.gather(1, batch.heads[:, None])[:, 0]
        else:
            predictions = self.heads[int(batch.heads[0])](hidden)[:, 0]
        error = (predictions.float() - batch.targets) ** 2
        return SimpleNamespace(loss=self.factor * error.mean(), metrics={"largest": error.detach().max()})

    def on_forward(self, number: int) -> None:
        """Replaced by the tests that kill the process."""


class ToyData:
    """Sample i of a task: inputs drawn with seed i, target a fixed function of them."""

    def __init__(self, settings: ToySettings) -> None:
        self.settings = settings

    def instead_of(self, reference: SampleReference) -> SampleReference:
        return instead_of(reference, self.settings.samples)

    def __getitem__(self, reference: SampleReference) -> dict:
        if reference.index == self.settings.unreadable_index:
            if self.settings.stuck_workers:
                threading.Thread(target=threading.Event().wait).start()
            raise InputError(f"sample_{reference.index}.nii.gz: the file is truncated; fetch it again")
        inputs = np.random.default_rng(reference.index).normal(size=6)
        target = np.sin(inputs.sum()) if reference.task == "sine" else inputs[0] * inputs[1]
        if reference.index == self.settings.bad_index:
            target = np.nan
        if self.settings.augment:
            inputs = inputs + 0.1 * (random.random() + np.random.rand() + torch.rand(()).item())
        return {"id": f"{reference.task}-{reference.index}", "task": reference.task, "inputs": inputs, "target": target}


def collate(samples: list[dict]) -> ToyBatch:
    """A batch named after its task, or "mixed"."""
    tasks = {sample["task"] for sample in samples}
    return ToyBatch(
        torch.tensor(np.stack([sample["inputs"] for sample in samples]), dtype=torch.float32),
        torch.tensor([sample["target"] for sample in samples], dtype=torch.float32),
        torch.tensor([0 if sample["task"] == "sine" else 1 for sample in samples]),
        [sample["id"] for sample in samples],
        tasks.pop() if len(tasks) == 1 else "mixed",
    )


def main(argv: list[str] | None = None) -> TrainingResult:
    """Parse, build, train: the skeleton of the real scripts."""
    torch.set_num_threads(1)
    settings = parse(ToySettings, argv=argv)
    ranks = distributed.initialize()
    random_state.seed_all(settings.seed)
    model = ToyModel(settings.dropout)
    model.body.requires_grad_(settings.unfreeze)
    weights = {"sine": 2.0, "product": 1.0} if settings.tasks == "two" else {"sine": 1.0}
    sampler = MixtureSampler(
        {task: settings.samples for task in weights},
        weights,
        mode=settings.mode,
        micro_batch=settings.micro_batch,
        accumulation_steps=settings.accumulation_steps,
        seed=settings.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        draw_ranks=settings.draw_ranks or None,
    )

    def save_model(model: torch.nn.Module, folder: Path) -> None:
        save_file(model.state_dict(), folder / "model.safetensors")
        (folder / "thread.txt").write_text(threading.current_thread().name)
        if settings.kill_in_save and f"{settings.kill_in_save:06d}" in folder.parent.name:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_forward(number: int) -> None:
        step = (number - 1) // settings.accumulation_steps + 1
        if step == settings.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        model.factor = float("nan") if step == settings.nan_at else 1.0
        if step == settings.sleep_at:
            time.sleep(settings.sleep_seconds)
        if step == settings.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(step: int) -> dict[str, float]:
        assert not model.training
        for _ in range(round(10 * settings.evaluation_seconds)):
            time.sleep(0.1)
            model.body(torch.zeros(1, 6))
        return {"noise": torch.rand(()).item(), "forwards": float(model.forwards)}

    class Checkpoint(checkpoint_store.PartialCheckpoint):
        def write_own_part(self, *arguments: Any) -> None:
            if self.step == settings.unwritable_at and ranks.rank == ranks.world_size - 1:
                raise CheckpointError(f"{self.part_of(ranks.rank)}: cannot be written; make room")
            super().write_own_part(*arguments)

        def finish(self) -> None:
            time.sleep(settings.slow_finish)
            super().finish()

    class LateStopping(stopping.Stopping):
        def before(self, number: int) -> str:
            time.sleep(settings.late_seconds if ranks.rank == ranks.world_size - 1 else 0.0)
            return super().before(number)

    if settings.unwritable_at or settings.slow_finish:
        background_saves.PartialCheckpoint = Checkpoint
        background_saves._LONGEST_WAIT = 600.0  # a rank that waits for what does not come is seen to
    if settings.late_seconds:
        loop.Stopping = LateStopping
    model.on_forward = on_forward
    groups = None
    if settings.groups:
        groups = [
            {"params": model.body.parameters()},
            {"params": model.heads.parameters(), "lr": settings.learning_rate / 10},
        ]
    return train(
        model,
        settings,
        ranks,
        sampler=sampler,
        dataset=ToyData(settings),
        collate=collate,
        save_model=save_model,
        parameter_groups=groups,
        evaluate=evaluate,
    )


if __name__ == "__main__":
    run_script(main)
