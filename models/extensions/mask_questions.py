"""The mask queries of a batch, sorted by the volume that they are about, and a random choice among the volumes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import EncodedRows
from models.encoders.contract import EncodedVolume


@dataclass
class MaskQuestions:
    """What is asked about one volume: the rows that ask, their queries (n, width) and true masks (n, X, Y, Z)."""

    volume: EncodedVolume
    rows: list[int] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)


def mask_questions(states: Sequence[Tensor], batch: InstructionBatch, encoded: EncodedRows) -> list[MaskQuestions]:
    """The questions of a batch, those about one volume together, in the order of the first.

    states: for each row the hidden states of its answer's ``<SEG>``, (n, width).
    """
    asked: dict[Hashable, MaskQuestions] = {}
    for row, (masks, queries) in enumerate(zip(batch.masks, states, strict=True)):
        if masks is None or not len(queries):
            continue
        image = batch.mask_images[row]
        questions = asked.setdefault((batch.volumes_of[row], image), MaskQuestions(encoded[row][image]))
        questions.rows.append(row)
        questions.queries.append(queries)
        questions.targets.append(masks[: len(queries)])
    return list(asked.values())


def sample_volumes(asked: list[MaskQuestions], count: int) -> tuple[list[MaskQuestions], float]:
    """Choose `count` volumes at random, or all: where there are no more, and for count 0.

    Returns the questions about them, and a weight for their losses, with which they stand for all: the number of rows
    that ask for masks over the number of those that ask about the chosen volumes.
    """
    if not 0 < count < len(asked):
        return asked, 1.0
    rows = sum(len(questions.rows) for questions in asked)
    chosen = [asked[i] for i in torch.randperm(len(asked))[:count].tolist()]
    return chosen, rows / sum(len(questions.rows) for questions in chosen)
