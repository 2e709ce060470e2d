"""Single steps of train_CTInstruct.py on volumes of any size, by all that the script makes before its loop.

The script runs as it does from a shell, up to the loop, in whose place comes what hands over the model, the engine and
the data.  Nothing is saved: a checkpoint of 2B shapes takes longer to write than all steps that are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any
from unittest.mock import patch

import torch

import train_CTInstruct
from benchmarks.checkpoint_memory import PeakMemory
from benchmarks.measure import GIB, device, now
from benchmarks.memory_search import DoesNotFit
from datasets.instruction import InstructionDataset, InstructionSample
from datasets.manifest import QuestionPart
from datasets.volume.anyres import AnyresPlacement, PatchedVolume
from models.ctinstruct import CTInstruct
from training.batches import SkippedSamples
from training.deepspeed_config import build_engine
from training.distributed import Ranks
from training.look_ahead import StepBatches
from training.loss_spikes import LossSpikes
from training.precision import LossScale, cast_model, resolve_precision
from training.progress import Averages
from training.stopping import Stopping
from training.update import update_weights

QUESTION, ANSWER = "Where is the liver? Please output segmentation mask.", "It is <SEG>."


class TuningStep:
    """The script's model and engine, and steps of them on samples of random voxels with one mask each."""

    def __init__(self, model: CTInstruct, settings: Any, ranks: Ranks, given: dict[str, Any]) -> None:
        self.model, self.settings, self.ranks = model, settings, ranks
        self.dataset: InstructionDataset = given["dataset"]
        self.collate: Callable[[list[InstructionSample]], Any] = given["collate"]
        cast_model(model, resolve_precision(settings, ranks.device))
        self.engine = build_engine(model, settings, ranks.device, given["parameter_groups"])
        self.engine.module.train()
        self.loss_scale, self.steps = LossScale(self.engine), 0
        self.broken = False  # memory ran out within a step, whose gradients are half summed up

    def sample(self, patches: int) -> InstructionSample:
        """A question about a volume of so many patches along z, which is answered with a mask."""
        crop = self.model.config.crop_size
        shape = (crop[0], crop[1], crop[2] * patches)
        placement = AnyresPlacement(shape, shape, shape, (0, 0, 0), crop, (patches, 1, 1))
        noise = torch.randn(1, *crop, generator=torch.Generator().manual_seed(0)).repeat(patches, 1, 1, 1)
        volume = PatchedVolume(noise, torch.ones(patches, crop[2]), placement)
        masks = torch.zeros(1, *shape, dtype=torch.int8)
        masks[:, crop[0] // 4 : crop[0] // 2, crop[1] // 4 : crop[1] // 2] = 1
        conversation, count = self.dataset.conversation, self.dataset.visual_tokens(volume)
        parts = [QuestionPart(type="image"), QuestionPart(type="text", text=QUESTION)]
        return InstructionSample(
            id=f"{patches} patches",
            task="segmentation",
            prompt_ids=conversation.prompt(parts, [count], room=conversation.max_length + count),
            answer_ids=conversation.answer(ANSWER),
            volumes=[volume],
            volume_keys=[""],
            masks=masks,
        )

    def tokens(self, patches: int) -> tuple[int, int]:
        """(visual tokens, all tokens) of a sample."""
        sample = self.sample(patches)
        grid = self.model.config.token_grid(sample.volumes[0].patch_grid, self.model.config.crop_size[2])
        return prod(grid), len(sample.prompt_ids) + len(sample.answer_ids)

    def step(self, patches: int, volumes: int = 1) -> tuple[float, float]:
        """(seconds, peak GiB) of one update by the script's number of micro-batches, of `volumes` samples each.

        The peak is the allocator's on CUDA, else the process's resident memory.  Raises DoesNotFit.
        """
        batches = [self._batch(patches, volumes) for _ in range(self.settings.accumulation_steps)]
        ahead = StepBatches(iter(batches), self.settings.accumulation_steps, self.ranks.device)
        ahead.fill(lambda: "")
        self.steps += 1
        on_cuda = device().type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = now()
        try:
            with nullcontext() if on_cuda else PeakMemory() as memory:
                self._update(ahead)
        except torch.OutOfMemoryError as error:
            self.broken = True
            raise DoesNotFit(str(error).splitlines()[0]) from error
        seconds = now() - begun
        if memory is None:
            return seconds, torch.cuda.max_memory_allocated() / GIB
        return seconds, (memory.start[0] + memory.resident) / GIB

    def _update(self, ahead: StepBatches) -> None:
        stopping, spikes, skipped, averages = Stopping(lambda: "", None), LossSpikes(), SkippedSamples(), Averages()
        own = (self.settings, self.ranks, averages, self.steps, skipped, spikes, stopping)
        micro_steps = self.settings.accumulation_steps
        update_weights(self.engine, self.loss_scale, ahead, *own, lambda step, micro: step * micro_steps + micro)

    def _batch(self, patches: int, volumes: int) -> Any:
        samples = [self.sample(patches) for _ in range(volumes)]
        for number, sample in enumerate(samples):
            sample.volume_keys = [str(number)]  # each a volume of its own, which is encoded for itself
        batch = self.collate(samples)
        return batch.pin_memory() if device().type == "cuda" else batch


def prepared(arguments: Sequence[str]) -> TuningStep:
    """What train_CTInstruct.py has made when its loop begins, run with these arguments."""
    taken: list[TuningStep] = []

    def instead_of_loop(model: CTInstruct, settings: Any, ranks: Ranks, **given: Any) -> None:
        settings.validate()
        taken.append(TuningStep(model, settings, ranks, given))

    with (
        patch.object(train_CTInstruct, "train", instead_of_loop),
        patch.object(sys, "argv", ["train_CTInstruct.py", *arguments]),
    ):
        train_CTInstruct.main()
    return taken[0]
