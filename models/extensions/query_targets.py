"""Drawing the queries of `<SEG>` to the text embeddings that pretraining asked for masks with."""

from __future__ import annotations

from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct, added


def query_losses(model: CTInstruct, hidden: Tensor, batch: InstructionBatch) -> Tensor:
    """(B,): mean squared distance of the queries of ``<SEG>`` from their labels' embeddings, where these are given.

    Pretraining asked the mask decoder with those embeddings.  Far from all of them it answers with nothing, surely,
    and the mask's loss then has next to no gradient to say in which direction the query should go.

    hidden: (B, L, width), the language model's last states.
    """
    losses = hidden.new_zeros(len(hidden)).float()
    answers = batch.labels == model.segmentation_id
    for row, targets in enumerate(batch.query_targets):
        states = hidden[row, answers[row]]
        if targets is None or not len(states):
            continue
        queries = model.vision.qwen2biolord(states).float()
        distances = (queries - targets[: len(queries)].float()).square().sum(-1)
        losses = added(losses, row, distances.mean())
    return losses
