"""Worker of test_pretraining_ranks: a few ZeRO-2 steps on fixed samples, on one rank or two.

Started under the DeepSpeed launcher or as plain python: pretraining_ranks.py RUN_DIR STEPS [--resume].  A step
accumulates one micro-step of each kind; its two samples go to the one rank, or one to each of two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from datasets.sampling import SampleReference
from models.checkpoints.pretrained_vision import save_pretraining
from tests.pretraining_samples import make_batch, tiny_pretraining
from training import distributed
from training.loop import train
from training.script import run_script
from training.settings import TrainingSettings

KINDS = ("image_text", "segmentation", "BCE", "image_text")


class FixedSampler:
    """Two samples a micro-step, shared among the ranks."""

    def __init__(self, ranks: distributed.Ranks):
        self.ranks = ranks

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        pair = [2 * (step * len(KINDS) + micro_step) + k for k in (0, 1)]
        own = pair if self.ranks.world_size == 1 else [pair[self.ranks.rank]]
        return [SampleReference(KINDS[micro_step], index, 0) for index in own]

    def number(self, step: int, micro_step: int = 0) -> int:
        return (step * len(KINDS) + micro_step) * self.ranks.world_size + self.ranks.rank

    def fingerprint(self) -> dict:
        return {"kinds": list(KINDS)}


class References:
    """The batches are made from references alone."""

    def __getitem__(self, reference: SampleReference) -> SampleReference:
        return reference


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("run_dir")
    parser.add_argument("steps", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    ranks = distributed.initialize()
    torch.set_num_threads(1)
    model = tiny_pretraining()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode, norm=module: norm  # statistics of a batch belong to a rank, here to none
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    settings = TrainingSettings(
        run_dir=options.run_dir,
        resume="auto" if options.resume else "",
        max_iters=options.steps,
        accumulation_steps=len(KINDS),
        warmup=0.0,
        min_lr_ratio=1.0,
        learning_rate=1e-4,
        weight_decay=0.01,
        log_interval=1,
    )
    train(
        model,
        settings,
        ranks,
        sampler=FixedSampler(ranks),
        dataset=References(),
        collate=lambda references: make_batch(references[0].task, [reference.index for reference in references]),
        save_model=save_pretraining,
    )


if __name__ == "__main__":
    run_script(main)
