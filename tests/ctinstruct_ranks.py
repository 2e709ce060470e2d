"""Worker of test_ctinstruct_ranks: a few ZeRO steps on given samples, one rank or two.

Started under the DeepSpeed launcher or as plain python: ctinstruct_ranks.py RUN_DIR KINDS STEPS.  Micro-batch k of a
step is the k-th kind; on two ranks each rank takes one kind, on one rank both are accumulated.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from datasets.sampling import SampleReference
from models.checkpoints.folder import save_checkpoint
from models.parameters import freeze_unused, parameter_groups
from tests.tiny_model import VISION, collate, make_sample, tiny_ctinstruct
from training import distributed
from training.loop import train
from training.script import run_script
from training.settings import TrainingSettings


class FixedSampler:
    """Kind k for rank k, or for micro-step k of a single rank."""

    def __init__(self, kinds: list[str], ranks: distributed.Ranks):
        self.kinds, self.ranks = kinds, ranks

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        place = micro_step * self.ranks.world_size + self.ranks.rank
        return [SampleReference(self.kinds[place], step, 0)]

    def number(self, step: int, micro_step: int = 0) -> int:
        return step * len(self.kinds) + micro_step * self.ranks.world_size + self.ranks.rank

    def fingerprint(self) -> dict:
        return {"kinds": self.kinds}


class Samples:
    def __init__(self, tokenizer, steps: int | None):
        self.tokenizer, self.steps = tokenizer, steps

    def __getitem__(self, reference: SampleReference):
        if reference.index == self.steps:  # in the step after them, which is given up
            os.kill(os.getpid(), signal.SIGTERM)  # as a batch system ends a job, which then saves
        sample = make_sample(reference.task, self.tokenizer, reference.index)
        if sample.masks is not None:
            generator = torch.Generator().manual_seed(reference.index)
            sample.query_targets = torch.randn(len(sample.masks), VISION.query_width, generator=generator)
        return sample


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("run_dir")
    parser.add_argument("kinds")
    parser.add_argument("steps", type=int)
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--offload", default="none")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--of", type=int, help="steps of the whole run, of which this part ends earlier")
    options = parser.parse_args()
    ranks = distributed.initialize()
    torch.set_num_threads(1)
    kinds = options.kinds.split(",")
    model = tiny_ctinstruct(query_targets=True, aligned_ranks=ranks.world_size > 1)
    freeze_unused(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    total = options.of or options.steps
    settings = TrainingSettings(
        run_dir=options.run_dir,
        max_iters=total,
        resume="auto" if options.resume else "",
        save_interval=options.steps,
        zero_stage=options.stage,
        offload=options.offload,
        accumulation_steps=len(kinds) // ranks.world_size,
        warmup=0.0,
        weight_decay=0.01,
        log_interval=1,
    )
    train(
        model,
        settings,
        ranks,
        sampler=FixedSampler(kinds, ranks),
        dataset=Samples(model.tokenizer, options.steps if options.of else None),
        collate=lambda samples: collate(samples, model.tokenizer),
        save_model=save_checkpoint,
        parameter_groups=parameter_groups(model, 1e-4, 1e-4),
    )


if __name__ == "__main__":
    run_script(main)
