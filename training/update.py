"""One update of the weights: a step's micro-batches forwards and backwards, the gradient's check, the optimiser.

In a micro-step nothing waits for the device, nor for another rank beyond what the gradients need: what is measured
stays where it is, and is read once, before the weights change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datasets.errors import InputError
from training import distributed, offload, random_state, zero3
from training.batches import SkippedSamples
from training.device_values import Stopwatch, copied, read
from training.distributed import Ranks
from training.look_ahead import StepBatches
from training.loss_spikes import LossSpikes
from training.precision import LossScale
from training.progress import Averages
from training.settings import TrainingSettings
from training.stopping import Stopping


class NonFiniteLossError(InputError):
    """A loss or a gradient is NaN or infinite; names the samples."""


class StepGivenUp(Exception):
    """The run is to end, and every rank has left the step that it was in, whose weights are as before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _MicroBatch:
    """What is kept of a micro-batch until its step ends; loss: () float64, on the device."""

    task: str
    sample_ids: list[str]
    loss: torch.Tensor


def update_weights(
    engine: Any,
    loss_scale: LossScale,
    ahead: StepBatches,
    settings: TrainingSettings,
    ranks: Ranks,
    averages: Averages,
    step: int,
    skipped_samples: SkippedSamples,
    spikes: LossSpikes,
    stopping: Stopping,
    number_of: Callable[[int, int], int],
) -> None:
    """Accumulate the gradients of a step's micro-batches and update the weights; what is measured joins `averages`,
    and samples that were replaced `skipped_samples`; losses far above those before them are told by `spikes`.

    number_of: step and micro-step, counted from 0, -> this rank's micro-batch counted over all steps and ranks, by
    which its random numbers go.

    Raises on every rank, before the weights change: InputError for a sample that cannot be read, StepGivenUp where
    `stopping` says that the run has to end, and NonFiniteLossError for a loss that is not finite, or a gradient that is
    not, unless a smaller loss scale (fp16) may help.
    """
    step_begun, ahead.waited = time.monotonic(), 0.0
    done: list[_MicroBatch] = []
    for micro_step in range(settings.accumulation_steps):
        ahead.begin(micro_step)
        if reason := stopping.before((step - 1) * settings.accumulation_steps + micro_step):
            raise StepGivenUp(reason)
        watch = Stopwatch(ranks.device)
        batch, reasons = ahead.take()
        if settings.skip_bad_samples:
            skipped_samples.add(reasons)
            averages.add("train/skipped_samples", len(reasons))
        task, sample_ids = batch.task, list(batch.sample_ids)
        random_state.seed_micro_batch(settings.seed, number_of(step - 1, micro_step))
        output = engine(batch)
        engine.backward(offload.with_every_weight(output.loss, engine))
        done.append(_MicroBatch(task, sample_ids, copied(output.loss)))
        for name, value in output.metrics.items():
            averages.add(name if "/" in name else f"{task}/{name}", value)
        del output, batch  # frees the activations before the update
        watch.pause()
        ahead.fetch()  # while the device still computes
        watch.go_on()
        if micro_step == settings.accumulation_steps - 1:
            _check(done, ahead, engine, settings.clip, averages, step, spikes)
            scale, can_fall = loss_scale.value, loss_scale.can_fall()  # those that the gradient was made with
        engine.step()
        if micro_step == settings.accumulation_steps - 1:
            zero3.forget_gradients(engine.optimizer)
        averages.add(f"{task}/seconds", watch.stop())

    skipped = bool(getattr(engine.optimizer, "overflow", False))
    norm = engine.get_global_grad_norm()
    finite = not skipped and (norm is None or math.isfinite(float(norm)))
    if not finite and not (skipped and can_fall):
        _stop_at_gradient(done, step)
    if finite and norm is not None:
        averages.add("train/gradient_norm", float(norm))
    if loss_scale.is_dynamic:
        averages.add("train/skipped_updates", float(skipped))
        averages.add("train/loss_scale", scale)
    averages.add("train/seconds", time.monotonic() - step_begun)
    averages.add("train/data_seconds", ahead.waited)


def _check(
    done: Sequence[_MicroBatch],
    ahead: StepBatches,
    engine: Any,
    clip: float,
    averages: Averages,
    step: int,
    spikes: LossSpikes,
) -> None:
    """Read a step's losses, and raise NonFiniteLossError on every rank where one of any rank is not finite.

    The ranks' one reduction in a step, but for that of clipping: it also tells whether all of them can make the next.
    """
    losses = torch.stack([micro_batch.loss for micro_batch in done])
    next_unusable = torch.full((), ahead.problem is not None, device=losses.device)
    own = torch.stack([~losses.isfinite().all(), ~_finite_gradient(engine, clip).to(losses.device), next_unusable])
    agreed = distributed.largest_over_ranks(own.double()).to(losses.device)
    *values, bad_loss, bad_gradient, unusable = read([*losses, *agreed])
    ahead.unusable = bool(unusable)
    averages.settle()
    problems = []
    for micro_batch, loss in zip(done, values, strict=True):
        if math.isfinite(loss):
            spikes.add(step, micro_batch.task, loss, micro_batch.sample_ids)
        else:
            problems.append(f"task {micro_batch.task}, samples {', '.join(micro_batch.sample_ids)}: loss {loss}")
        averages.add("train/loss", loss)
        averages.add(f"{micro_batch.task}/loss", loss)
    if bad_loss:
        _stop_not_finite(problems, step)
    if bad_gradient:
        _stop_at_gradient(done, step)


def _finite_gradient(engine: Any, clip: float) -> torch.Tensor:
    """Whether the whole gradient is finite, () bool, not yet read; clips it where the engine does not.

    ZeRO clips, and skips the update, by itself: then True.  clip: the gradient's largest norm, 0 for any.
    """
    gradients = [weight.grad for weight in engine.module.parameters() if weight.grad is not None]
    if engine.zero_optimization_stage() or not gradients:
        return torch.tensor(True)
    if not clip or engine.gradient_clipping():
        return torch.nn.utils.get_total_norm(gradients).isfinite()
    from deepspeed.runtime.utils import clip_grad_norm_  # DeepSpeed's import is left to `training.distributed`

    return clip_grad_norm_(engine.module.parameters(), clip).isfinite()


def _stop_at_gradient(done: Sequence[_MicroBatch], step: int) -> None:
    names = [name for micro_batch in done for name in micro_batch.sample_ids]
    _stop_not_finite([f"samples {', '.join(names)}: the gradient's norm"], step)


def _stop_not_finite(problems: list[str], step: int) -> None:
    """Raise on every rank, with the samples of all ranks."""
    named = [problem for of_rank in distributed.all_gather_object(problems) for problem in of_rank]
    distributed.raise_together(
        NonFiniteLossError(
            f"step {step}: not finite: {'; '.join(dict.fromkeys(named))}. "
            "The weights and the last checkpoint are from before this step"
        )
    )
