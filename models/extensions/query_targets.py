"""Keeping the queries of `<SEG>` near the text embeddings that the mask decoder was pretrained with."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct
from models.language.row_layout import RowLayout


def query_losses(model: CTInstruct, hidden: Tensor, batch: InstructionBatch, layout: RowLayout) -> Tensor:
    """(B,): squared distance of a row's queries of ``<SEG>`` from the text embeddings of their labels, the mean.

    0 for rows without `batch.query_targets`.  hidden: (B, L, width), the language model's last states.

    The mask decoder was pretrained with those embeddings as queries.  For a query far from all of them it gives an
    empty mask with great certainty, and the mask loss then has next to no gradient that says where it should go.
    """
    losses = list(hidden.new_zeros(len(hidden), dtype=torch.float32))
    columns = layout.segmentations.by_row()
    for row, targets in enumerate(batch.query_targets):
        if targets is None or not len(columns[row]):
            continue
        states = hidden[row, columns[row]]
        queries = model.vision.qwen2biolord(states).float()
        distances = (queries - targets[: len(queries)].float()).square().sum(-1)
        losses[row] = distances.mean()
    return torch.stack(losses)
