"""The losses of a batch of instructions as logs show them: by task and by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from datasets.instruction import InstructionBatch


def mean_losses(losses: Mapping[str, Tensor], batch: InstructionBatch, answered: Sequence[bool]) -> dict[str, Tensor]:
    """Mean of each loss (B,) over the rows that have it, named task/loss so that mixed batches sort themselves.

    answered: for each row whether it has an answer.
    """
    present = {
        "language_loss": answered,
        "diagnosis_loss": [targets is not None for targets in batch.targets],
        "mask_loss": [masks is not None for masks in batch.masks],
        "query_loss": [targets is not None for targets in batch.query_targets],
    }
    metrics: dict[str, Tensor] = {}
    for name, values in losses.items():
        for task in sorted(set(batch.tasks)):
            rows = [r for r, kind in enumerate(batch.tasks) if kind == task and present[name][r]]
            if rows:
                metrics[f"{task}/{name}"] = torch.stack([values.detach()[row] for row in rows]).mean()
    return metrics
