"""From sample references to batches on the device: building in worker processes, errors as values, moving."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from datasets.errors import InputError
from datasets.sampling import Sampler
from datasets.tensor_parts import with_tensors
from training import random_state
from training.parent_death import signal_at_parents_death

log = logging.getLogger(__name__)
MOST_REPLACEMENTS = 20  # of one sample; then more is wrong than some files
MOST_REASONS = 1000  # that are kept, so that each is said once


def _allow_open_files() -> None:
    """As many as the system lets a process have: each tensor that a loader process sends is an open file while it
    lives, and the batches of a step can be more than the thousand that is usual."""
    try:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ImportError, OSError, ValueError):  # not a Unix, or no such limit
        return


@dataclasses.dataclass
class SkippedSamples:
    """Samples that could not be read and were replaced, on this rank: how many, and the first reasons."""

    count: int = 0
    reasons: dict[str, None] = dataclasses.field(default_factory=dict)

    def add(self, reasons: Sequence[str]) -> None:
        """Count them; what is new is logged."""
        self.count += len(reasons)
        for reason in reasons:
            if reason not in self.reasons and len(self.reasons) < MOST_REASONS:
                log.warning("another sample is taken, since this one cannot be used: %s", reason)
                self.reasons[reason] = None


@dataclasses.dataclass(frozen=True)
class BadInput:
    """An InputError from a worker process: as an exception it would lose its one clear line on the way."""

    message: str


@dataclasses.dataclass(frozen=True)
class Replaced:
    """A sample, or a batch, and why others than it were passed over."""

    value: Any
    reasons: list[str]

    def pin_memory(self) -> Replaced:
        """With the value pinned, as DataLoader does it by itself for other values."""
        return Replaced(pin_memory(self.value), self.reasons)


def batches(
    dataset: Any,
    sampler: Sampler,
    collate: Callable[[list[Any]], Any],
    *,
    first_step: int,
    last_step: int,
    accumulation_steps: int,
    workers: int,
    pin_memory: bool,
    skip_bad: bool = False,
) -> Iterator[Any]:
    """The batches of the steps from first_step up to, not including, last_step, one a micro-step, or BadInput.

    skip_bad: a sample that cannot be read is replaced by `dataset.instead_of(reference)`; the batch then is `Replaced`.
    """
    if workers:
        _allow_open_files()
    loader = DataLoader(
        _SeededSamples(dataset, skip_bad),
        batch_sampler=_MicroSteps(sampler, first_step, last_step, accumulation_steps),
        collate_fn=_Collate(collate),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=partial(_as_loader, os.getpid()),
        generator=torch.Generator(),  # of its own: the loader would else draw from the training's random state
    )
    return iter(loader)


def move_to(batch: Any, device: torch.device) -> Any:
    """The same structure of dataclasses, dicts, lists and tuples with its tensors on `device`."""
    return with_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


class DeviceCopies:
    """Batches on the way to a device; on CUDA beside what it computes, from pinned memory by a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: Any) -> Any:
        """The batch on the device, which nothing may read before it was given to `arrived`."""
        if self._device.type == "cpu":  # where it was made; looking through it would take longer than a small question
            return batch
        if self._stream is None:
            return move_to(batch, self._device)
        with torch.cuda.stream(self._stream):
            return move_to(batch, self._device)

    def arrived(self, batch: Any) -> Any:
        """The same batch: what is computed from here on waits, on the device, until all of it is there."""
        if self._stream is not None:
            present = torch.cuda.current_stream(self._device)
            present.wait_stream(self._stream)

            def kept(tensor: torch.Tensor) -> torch.Tensor:
                tensor.record_stream(present)  # else its memory could be given away before it was read
                return tensor

            with_tensors(batch, kept)
        return batch


class _MicroSteps:
    def __init__(self, sampler: Sampler, first_step: int, last_step: int, accumulation_steps: int) -> None:
        self.sampler, self.first_step, self.last_step = sampler, first_step, last_step
        self.accumulation_steps = accumulation_steps

    def __iter__(self) -> Iterator[list[Any]]:
        for step in range(self.first_step, self.last_step):
            for micro_step in range(self.accumulation_steps):
                yield self.sampler.references(step, micro_step)


class _SeededSamples(Dataset):
    """Augmentation draws from the reference's own seed, whatever the number of workers and the step resumed from."""

    def __init__(self, dataset: Any, skip_bad: bool) -> None:
        self.dataset, self.skip_bad = dataset, skip_bad

    def __getitem__(self, reference: Any) -> Any:
        reasons: list[str] = []
        while True:
            sample = self._sample(reference)
            if not isinstance(sample, BadInput):
                return Replaced(sample, reasons) if reasons else sample
            reasons.append(sample.message)
            if not self.skip_bad:
                return sample
            if len(reasons) > MOST_REPLACEMENTS:
                return BadInput(f"{reasons[0]}; and {MOST_REPLACEMENTS} others in its place cannot be used either")
            reference = self.dataset.instead_of(reference)

    def _sample(self, reference: Any) -> Any:
        with random_state.seeded(reference.seed):
            try:
                return self.dataset[reference]
            except InputError as error:
                return BadInput(str(error))


class _Collate:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, BadInput):
                return sample
        reasons = [reason for sample in samples if isinstance(sample, Replaced) for reason in sample.reasons]
        try:
            batch = self.collate([sample.value if isinstance(sample, Replaced) else sample for sample in samples])
        except InputError as error:
            return BadInput(str(error))
        return Replaced(batch, reasons) if reasons else batch


def _as_loader(parent: int, _worker: int) -> None:
    """Launchers and Ctrl-C signal the whole process tree; the training process saves, then stops its workers.

    parent: the training process, with which a loader ends at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal_at_parents_death(signal.SIGKILL, parent)
