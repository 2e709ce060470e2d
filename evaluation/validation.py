"""Losses on held-out samples while training goes on: cheap, since nothing is generated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from datasets.instruction import InstructionDataset
from datasets.manifest import InstructionRecord
from training import distributed
from training.distributed import Ranks
from training.watchdog import progressed


def held_out_losses(
    model: torch.nn.Module,
    dataset: InstructionDataset,
    records: Sequence[InstructionRecord],
    collate: Callable,
    ranks: Ranks,
) -> dict[str, float]:
    """Mean of each loss of ``model`` over ``records``, shared out over the ranks; name ``validation/task/part``.

    The model is in eval mode and gradients are off: the caller sees to that.
    """
    sums: dict[str, list[float]] = defaultdict(list)
    for turn in range(0, len(records), ranks.world_size):
        # Under ZeRO-3 a rank that has no record left runs the model for the others all the same; that does not count.
        place = turn + ranks.rank
        output = model(collate([dataset.sample(records[place % len(records)])]).to(ranks.device))
        for name, value in output.metrics.items() if place < len(records) else ():
            sums[name].append(float(value))
        progressed()
    merged: dict[str, list[float]] = defaultdict(list)
    for part in distributed.all_gather_object(dict(sums)):
        for name, values in part.items():
            merged[name].extend(values)
    return {f"validation/{name}": sum(values) / len(values) for name, values in sorted(merged.items())}
