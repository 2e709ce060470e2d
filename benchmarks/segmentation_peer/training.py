"""Training by the clock: the rate falls with the time that is used up, and the run ends when it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from benchmarks.segmentation_peer.loss import AnnotatedLoss, deep_loss
from benchmarks.segmentation_peer.patches import PatchSampler
from datasets.errors import InputError

POWER = 0.9  # of the polynomial that the rate falls by, nnU-Net's
CLIP = 12.0  # largest norm of the gradient, nnU-Net's
WARMUP = 0.02  # share of the time in which AdamW's rate rises


@dataclass(frozen=True)
class Progress:
    """Where a run stands: updates made, seconds used, mean loss of the updates since the last report."""

    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Schedule:
    """optimizer: "SGD" is nnU-Net's own (Nesterov momentum 0.99, weight decay 3e-5).  rate: at its peak.

    batch: patches an update.  minutes: of the whole run.  bf16: autocast of the forward pass.
    """

    optimizer: Literal["AdamW", "SGD"]
    rate: float
    batch: int
    minutes: float
    bf16: bool


def rate_factor(used: float, warmup: float) -> float:
    """The share of the peak rate when `used` (0 to 1) of the time is gone."""
    return min(1.0, (used + 1e-3) / warmup if warmup else 1.0) * max(1.0 - used, 0.0) ** POWER


def train_by_clock(
    network: nn.Module,
    sampler: PatchSampler,
    schedule: Schedule,
    start: float,
    report: Callable[[Progress], None],
    report_seconds: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Train until the clock is `minutes` behind `start`, and tell `report` about it every `report_seconds`.

    The update that runs when time is up is finished.  Raises InputError where no time is left for a first one, and
    where the loss is no number.
    """
    optimizer = _optimizer(network, schedule)
    warmup = WARMUP if schedule.optimizer == "AdamW" else 0.0
    loss_of = AnnotatedLoss()
    total, steps, told = schedule.minutes * 60, 0, start
    losses: list[float] = []
    network.train()
    while (used := (clock() - start) / total) < 1:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * rate_factor(used, warmup)
        batch = sampler.batch(schedule.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
            outputs = network(batch.images.contiguous(memory_format=torch.channels_last_3d))
        loss = deep_loss(loss_of, outputs, batch.truth, batch.annotated)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
        if math.isnan(losses[-1]):
            raise InputError(f"the loss is no number at update {steps + 1}; give a lower --rate")
        steps, now = steps + 1, clock()
        if now - told >= report_seconds:
            report(Progress(steps, now - start, sum(losses) / len(losses)))
            told, losses = now, []
    if not steps:
        raise InputError(f"--minutes {schedule.minutes:g}: reading the volumes took all of it; give more")
    return Progress(steps, clock() - start, sum(losses) / max(len(losses), 1))


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "SGD":
        return torch.optim.SGD(network.parameters(), schedule.rate, momentum=0.99, nesterov=True, weight_decay=3e-5)
    return torch.optim.AdamW(network.parameters(), schedule.rate, weight_decay=1e-2)
