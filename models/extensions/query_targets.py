"""Keeping the queries of `<SEG>` near the text embeddings that the mask decoder was pretrained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct, no_losses


def query_losses(model: CTInstruct, states: Sequence[Tensor], batch: InstructionBatch) -> Tensor:
    """(B,): squared distance of a row's queries of ``<SEG>`` from the text embeddings of their labels, the mean.

    0 for rows without `batch.query_targets`.  states: for each row the hidden states of its ``<SEG>``, (n, width).

    The mask decoder was pretrained with those embeddings as queries.  For a query far from all of them it gives an
    empty mask with great certainty, and the mask loss then has next to no gradient that says where it should go.
    """
    losses = no_losses(states)
    for row, targets in enumerate(batch.query_targets):
        if targets is None or not len(states[row]):
            continue
        queries = model.vision.qwen2biolord(states[row]).float()
        distances = (queries - targets[: len(queries)].float()).square().sum(-1)
        losses[row] = distances.mean()
    return torch.stack(losses)
