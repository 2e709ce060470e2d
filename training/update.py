"""One update of the weights: a step's micro-batches forwards and backwards, the gradient's check, the optimiser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from datasets.errors import InputError
from training import distributed, offload, random_state, zero3
from training.batches import BadInput, Replaced, SkippedSamples, move_to
from training.distributed import Ranks
from training.loss_spikes import LossSpikes
from training.precision import LossScale
from training.progress import Averages
from training.settings import TrainingSettings


class NonFiniteLossError(InputError):
    """A loss or a gradient is NaN or infinite; names the samples."""


class StepGivenUp(Exception):
    """The run is to end, and every rank has left the step that it was in, whose weights are as before it."""


def update_weights(
    engine: Any,
    loss_scale: LossScale,
    stream: Iterator[Any],
    settings: TrainingSettings,
    ranks: Ranks,
    averages: Averages,
    step: int,
    skipped_samples: SkippedSamples,
    spikes: LossSpikes,
    to_end: Callable[[], bool],
) -> None:
    """Accumulate the gradients of a step's micro-batches and update the weights; what is measured joins `averages`,
    and samples that were replaced `skipped_samples`; losses far above those before them are told by `spikes`.

    Raises on every rank, before the weights change: InputError for a sample that cannot be read, StepGivenUp where
    `to_end()` says on any rank that the run has to end, and NonFiniteLossError for a loss that is not finite, or a
    gradient that is not, unless a smaller loss scale (fp16) may help.
    """
    step_begun, waited = time.monotonic(), 0.0
    bad: list[str] = []
    seen: list[str] = []
    for micro_step in range(settings.accumulation_steps):
        begun = time.monotonic()
        batch = next(stream)
        failed = isinstance(batch, BadInput)
        if distributed.any_rank(failed or to_end()):
            distributed.raise_together(InputError(batch.message) if failed else None)
            raise StepGivenUp
        if settings.skip_bad_samples:
            reasons = batch.reasons if isinstance(batch, Replaced) else []
            skipped_samples.add(reasons)
            averages.add("train/skipped_samples", len(reasons))
            batch = batch.value if isinstance(batch, Replaced) else batch
        waited += time.monotonic() - begun

        begun, task, sample_ids = time.monotonic(), batch.task, list(batch.sample_ids)
        number = (step - 1) * settings.accumulation_steps + micro_step
        random_state.seed_micro_batch(settings.seed, number * ranks.world_size + ranks.rank)
        output = engine(move_to(batch, ranks.device))
        engine.backward(offload.with_every_weight(output.loss, engine))
        loss = float(output.loss.detach())
        seen += sample_ids
        if not math.isfinite(loss):
            bad.append(f"task {task}, samples {', '.join(sample_ids)}: loss {loss}")
        else:
            spikes.add(step, task, loss, sample_ids)
        metrics = {name: float(value) for name, value in output.metrics.items()}
        del output, batch  # frees the activations before the update
        if micro_step == settings.accumulation_steps - 1:
            if distributed.any_rank(bool(bad)):
                _stop_not_finite(bad, step)
            scale, can_fall = loss_scale.value, loss_scale.can_fall()  # those that the gradient was made with
        engine.step()
        if micro_step == settings.accumulation_steps - 1:
            zero3.forget_gradients(engine.optimizer)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)  # else the time of a task would be that of queueing its kernels
        averages.add("train/loss", loss)
        averages.add(f"{task}/loss", loss)
        averages.add(f"{task}/seconds", time.monotonic() - begun)
        for name, value in metrics.items():
            averages.add(name if "/" in name else f"{task}/{name}", value)

    skipped = bool(getattr(engine.optimizer, "overflow", False))
    norm = engine.get_global_grad_norm()
    finite = not skipped and (norm is None or math.isfinite(float(norm)))
    if not finite and not (skipped and can_fall):
        _stop_not_finite([f"samples {', '.join(seen)}: the gradient's norm"], step)
    if finite and norm is not None:
        averages.add("train/gradient_norm", float(norm))
    if loss_scale.is_dynamic:
        averages.add("train/skipped_updates", float(skipped))
        averages.add("train/loss_scale", scale)
    averages.add("train/seconds", time.monotonic() - step_begun)
    averages.add("train/data_seconds", waited)


def _stop_not_finite(problems: list[str], step: int) -> None:
    """Raise on every rank, with the samples of all ranks."""
    named = [problem for of_rank in distributed.all_gather_object(problems) for problem in of_rank]
    distributed.raise_together(
        NonFiniteLossError(
            f"step {step}: not finite: {'; '.join(dict.fromkeys(named))}. "
            "The weights and the last checkpoint are from before this step"
        )
    )
