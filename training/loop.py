"""The one training loop: any model, any mix of tasks, one process or many, resumable at any step.

What a model must guarantee under ZeRO-2 on several ranks: gradients go into communication buckets in the order in which
they arrive, so at the same micro-step every rank must give gradients to the same parameters in the same order.  A
sampler that draws one task a micro-step does that by itself; a model for mixed batches adds the untouched parts with
weight zero to its loss.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from datasets.errors import InputError, OneLineError
from datasets.sampling import Sampler
from training import checkpoint_store, distributed, random_state, recut, resumed_settings, training_state, zero3
from training.arguments import to_dict
from training.background_saves import BackgroundSaves
from training.batches import SkippedSamples, batches
from training.deepspeed_config import WEIGHT_LAYOUT, build_engine, optimizer_groups
from training.distributed import Ranks
from training.folder_lock import holding_run_dir
from training.look_ahead import StepBatches
from training.loss_spikes import LossSpikes
from training.precision import LossScale, cast_model, resolve_precision
from training.progress import Averages, Progress
from training.schedule import learning_rate_factor
from training.settings import TrainingSettings
from training.stopping import Stopping, shared_store
from training.update import NonFiniteLossError, StepGivenUp, update_weights
from training.wandb_log import wandb_log
from training.watchdog import Watchdog, following

__all__ = ["NonFiniteLossError", "TrainingResult", "train"]


Status = Literal["finished", "time_limit", "signal"]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: the number of optimiser steps done, why it ended, and its newest checkpoint."""

    step: int
    status: Status
    checkpoint: Path


@holding_run_dir
def train(
    model: torch.nn.Module,
    settings: TrainingSettings,
    ranks: Ranks,
    *,
    sampler: Sampler,
    dataset: Any,
    collate: Callable[[list[Any]], Any],
    save_model: Callable[[torch.nn.Module, Path], Any],
    parameter_groups: list[dict[str, Any]] | None = None,
    evaluate: Callable[[int], dict[str, float] | None] | None = None,
    record: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train `model`, from a checkpoint or from its present weights, up to `settings.max_iters` optimiser steps.

    sampler: which samples each rank trains on, as `datasets.sampling.MixtureSampler`.
    dataset: `dataset[reference]` is a sample; its randomness is seeded with `reference.seed`.
    collate: a list of samples -> a batch with `task` (a name) and `sample_ids` (list of str).
    model(batch) returns an object with `loss` (a scalar tensor, the mean over the batch) and `metrics` (name ->
    number); they are logged as `task/loss` and `task/metric`, or as they stand where a metric's name has a slash.
    save_model(model, folder): writes the model, or a copy of it, in its final format into an existing folder; called on
    rank 0.  parameter_groups: as torch's optimisers take them; the learning rate of a group is its peak.
    evaluate(step): called on every rank, in eval mode and without gradients; rank 0's scores are logged.  record: what
    a checkpoint's description.json tells of the run besides, as JSON types; None for the settings.

    The run's folder is locked meanwhile.  A checkpoint is saved every `save_interval` steps and at the end; with
    `background_saves` training goes on once its state has been copied, and an error of writing ends it later.  SIGTERM,
    and `max_minutes`, end the run after the micro-batch in hand with a checkpoint, and so does a sample that cannot be
    read (the step that it belongs to is not made).  With `settings.skip_bad_samples` another is taken in its place, as
    `dataset.instead_of(reference)` names it.  A resumed run says which settings have changed, and keeps both values
    with its checkpoints.

    Raises InputError for unusable settings, a checkpoint that does not fit the run, or a sample that cannot be read,
    and NonFiniteLossError, before the weights change, naming the samples.  Every rank raises the same.  In fp16 a
    gradient that is too large for the type is no error: the update is skipped, and `train/skipped_updates` tells how
    many of them were, as a share.  After `watchdog_minutes` without a step a rank writes what its threads are doing.
    """
    settings.validate()
    begun, run_dir = time.monotonic(), Path(settings.run_dir)
    resumed_from = _starting_point(settings, ranks)
    start = checkpoint_store.step_of(resumed_from) if resumed_from else 0
    precision = resolve_precision(settings, ranks.device)
    cast_model(model, precision)  # as the engine does, but before frozen weights are compared with a checkpoint's
    fixed = {"zero_stage": settings.zero_stage, "precision": precision}
    fixed["weight_layout"] = WEIGHT_LAYOUT  # ZeRO's states are flat: in another order they would fit, and be wrong
    groups = optimizer_groups(model, settings, parameter_groups)
    description = training_state.describe(model, fixed, sampler.fingerprint(), groups)
    record = {"arguments": to_dict(settings)} if record is None else record
    changes: list[dict[str, Any]] = []
    if resumed_from:
        changes = _check_fits(resumed_from, description, settings, record, ranks)
    engine = build_engine(model, settings, ranks.device, groups)
    loss_scale = LossScale(engine)
    if settings.compile:
        engine.module.compile()  # in place: the names of the weights stay
    peak_rates = [group["lr"] for group in engine.optimizer.param_groups]
    if resumed_from:
        training_state.restore(engine, recut.load_state(engine, resumed_from, ranks), resumed_from)
    stream = batches(
        dataset,
        sampler,
        collate,
        first_step=start,
        last_step=settings.max_iters,
        accumulation_steps=settings.accumulation_steps,
        workers=settings.workers,
        pin_memory=ranks.device.type == "cuda",
        skip_bad=settings.skip_bad_samples,
    )
    skipped_samples, spikes = SkippedSamples(), LossSpikes()
    saved = resumed_from

    saves = BackgroundSaves(run_dir, ranks, settings.keep_checkpoints)

    def save(step: int, wait: bool = True) -> Path:
        saves.settle()  # before anything is copied for the next
        about = {**description, **record, resumed_settings.CHANGES: changes}
        with random_state.preserved(), zero3.whole_weights(engine, ranks.is_main):
            if settings.background_saves and not wait:
                capture = partial(training_state.capture, engine, own=True)
                return saves.begin(step, model=engine.module, save_model=save_model, capture=capture, description=about)
            return checkpoint_store.write_checkpoint(
                run_dir,
                step,
                ranks,
                save_model=partial(save_model, engine.module),
                rank_state=training_state.capture(engine),
                description=about,
                keep=settings.keep_checkpoints,
            )

    with ExitStack() as stack:
        wandb = wandb_log(settings.wandb, run_dir, record.get("arguments"), ranks.is_main)
        progress = Progress(run_dir, settings.max_iters, start, ranks.is_main, wandb)
        stack.callback(progress.close)
        terminated = stack.enter_context(_termination_flag())
        stack.callback(saves.close)  # SIGTERM is still taken for a wish meanwhile

        def to_end() -> str:
            if terminated():
                return "signal"
            return "time_limit" if 0 < 60 * settings.max_minutes < time.monotonic() - begun else ""

        averages, step = Averages(), start
        if resumed_from:
            progress.say(f"resumed from {resumed_from}")
            if words := resumed_settings.in_words(changes, start):
                progress.say(words)
        engine.module.train()
        watchdog = stack.enter_context(Watchdog(run_dir, ranks.rank, settings.watchdog_minutes, start))
        stopping = Stopping(to_end, shared_store(start * settings.accumulation_steps))
        ahead = StepBatches(stream, settings.accumulation_steps, ranks.device)
        ended = ahead.fill(to_end) if step < settings.max_iters else ""

        while step < settings.max_iters and not ended:
            factor = learning_rate_factor(
                step, settings.schedule_steps, settings.warmup_steps, settings.min_lr_ratio, settings.warmup_shape
            )
            for group, peak in zip(engine.optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = peak * factor
            before = training_state.BeforeStep(engine.module)
            try:
                update_weights(
                    engine,
                    loss_scale,
                    ahead,
                    settings,
                    ranks,
                    averages,
                    step + 1,
                    skipped_samples,
                    spikes,
                    stopping,
                    sampler.number,
                )
            except StepGivenUp as given_up:
                before.restore(engine.module)
                ended = given_up.reason
                continue
            except NonFiniteLossError:
                saves.settle_before_error()
                raise
            except InputError as error:
                if ranks.world_size == 1 or distributed.is_shared(error):  # every rank is here
                    saves.settle_before_error()
                    if step > (checkpoint_store.step_of(saved) if saved else 0):
                        before.restore(engine.module)
                        progress.say(f"stopped at step {step}/{settings.max_iters}: {save(step)}")
                raise
            averages.add("train/learning_rate", settings.learning_rate * factor)
            step += 1
            watchdog.step_ended(step)
            progress.advance(step)
            if step % settings.log_interval == 0 or step == settings.max_iters:
                progress.report(step, averages.take())
            if settings.save_interval and step % settings.save_interval == 0:
                saved = save(step, wait=False)
                watchdog.step_ended(step)
            if evaluate is not None and settings.eval_interval and step % settings.eval_interval == 0:
                with following(engine.module):
                    scores = _evaluate(engine.module, evaluate, step)
                progress.evaluation(step, scores)
                watchdog.step_ended(step)

        distributed.barrier()  # slower ranks have yet to ask whether the run ends, in a store that goes with the first
        status = cast(Status, ended or "finished")
        if saved is None or checkpoint_store.step_of(saved) != step:
            saved = save(step)
        saves.settle()
        if skipped_samples.count:
            progress.say(f"{skipped_samples.count} samples could not be used and were replaced (on the first rank)")
        progress.say(f"{status} at step {step}/{settings.max_iters}: {saved}")
    return TrainingResult(step, status, saved)


def _starting_point(settings: TrainingSettings, ranks: Ranks) -> Path | None:
    """The checkpoint to resume from, the same on all ranks, or None; guards an existing run from being overwritten."""
    error, folder = None, None
    if ranks.is_main:
        try:
            folder = checkpoint_store.find_checkpoint(settings.run_dir, settings.resume)
            if not settings.resume and checkpoint_store.has_checkpoints(settings.run_dir):
                if not settings.overwrite:
                    raise InputError(
                        f"{settings.run_dir} already holds a run: continue it with --resume, begin it again with "
                        "--overwrite, or name another --run_dir"
                    )
                checkpoint_store.delete_all(settings.run_dir)
        except (OneLineError, OSError) as problem:
            error = problem
    distributed.raise_together(error)
    return distributed.all_gather_object(folder)[0]


def _check_fits(
    folder: Path, description: dict[str, Any], settings: TrainingSettings, record: Mapping[str, Any], ranks: Ranks
) -> list[dict[str, Any]]:
    """Which settings the run and those before it have changed; raises InputError on every rank where it does not fit
    the checkpoint."""
    error, step = None, checkpoint_store.step_of(folder)
    try:
        saved = resumed_settings.in_present_form(checkpoint_store.read_description(folder))
        training_state.check_same({name: saved.get(name) for name in description}, description, folder)
        resumed_settings.check_length(step, settings.max_iters, folder)
    except OneLineError as problem:
        error = problem
    distributed.raise_together(error)
    passed_over = settings.NO_PART_OF_THE_METHOD
    counts = (checkpoint_store.saved_ranks(folder), ranks.world_size)
    return resumed_settings.changed_settings(saved, record.get("arguments"), step, passed_over, counts)


def _evaluate(
    model: torch.nn.Module, evaluate: Callable[[int], dict[str, float] | None], step: int
) -> dict[str, float]:
    """Run the script's evaluation so that training goes on as if it had not happened."""
    model.eval()
    with random_state.preserved(), torch.no_grad():
        scores = evaluate(step)
    model.train()
    return scores or {}


@contextmanager
def _termination_flag() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM sets a flag in place of ending the process; yields the function that reads it."""
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    except ValueError:  # not the main thread, which alone may set handlers
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
