"""The language model's loss: cross-entropy of the answers' tokens alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from datasets.vocabulary import IGNORED_TOKEN


@dataclass(frozen=True)
class AnswerPositions:
    """The N answer tokens of a batch of ``count`` rows, (N,) each: row, the column that predicts it, and id."""

    rows: Tensor
    columns: Tensor
    targets: Tensor
    count: int

    @property
    def lengths(self) -> Tensor:
        """(count,): answer tokens of each row, 1 where it has none."""
        return self.rows.bincount(minlength=self.count).clamp_min(1)

    def moved(self, row: Tensor, column: Tensor) -> AnswerPositions:
        """The same tokens elsewhere: row and column (B, L) say where the token at each place went to."""
        places = self.rows, self.columns
        return replace(self, rows=row[places], columns=column[places])


def answer_positions(labels: Tensor) -> AnswerPositions:
    """Where labels (B, L) are not -100: a token is predicted by the column before its own."""
    rows, columns = (labels[:, 1:] != IGNORED_TOKEN).nonzero(as_tuple=True)
    return AnswerPositions(rows, columns, labels[rows, columns + 1], len(labels))


def answer_loss(logits: Tensor, answers: AnswerPositions, reduction: str = "sample") -> Tensor:
    """Cross-entropy of the answers' tokens.

    Args:
        logits: (N, vocabulary).
        reduction: "sample" gives (B,), each row's mean over its own tokens (0 where it has none), so that a batch
            equals the mean of its samples; "token" gives (), the mean over all tokens, as transformers and the release.
    """
    losses = F.cross_entropy(logits.float(), answers.targets, reduction="none")
    if reduction == "token":
        return losses.sum() / max(len(losses), 1)
    return losses.new_zeros(answers.count).index_add(0, answers.rows, losses) / answers.lengths
