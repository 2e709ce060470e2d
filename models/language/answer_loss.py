"""The language model's loss: cross-entropy of the answers' tokens alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from datasets.vocabulary import IGNORED_TOKEN


@dataclass(frozen=True)
class AnswerPositions:
    """The N answer tokens of a batch of B rows.

    rows, columns, targets: (N,) each: row, the column that predicts it, and id.
    lengths: (B,), answer tokens of each row, 1 where it has none.
    kept, places: the distinct columns (K,), ascending, and (N,), which of them is a token's.
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor
    lengths: Tensor
    kept: Tensor
    places: Tensor

    def moved(self, row: Tensor, column: Tensor) -> AnswerPositions:
        """The same tokens elsewhere: row and column (B, L) say where the token at each place went to."""
        places = self.rows, self.columns
        return _positions(row[places], column[places], self.targets, self.lengths)


def answer_positions(labels: Tensor) -> AnswerPositions:
    """Where labels (B, L) are not -100: a token is predicted by the column before its own."""
    rows, columns = (labels[:, 1:] != IGNORED_TOKEN).nonzero(as_tuple=True)
    lengths = rows.bincount(minlength=len(labels)).clamp_min(1)
    return _positions(rows, columns, labels[rows, columns + 1], lengths)


def _positions(rows: Tensor, columns: Tensor, targets: Tensor, lengths: Tensor) -> AnswerPositions:
    kept, places = columns.unique(return_inverse=True)
    return AnswerPositions(rows, columns, targets, lengths, kept, places)


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
    return losses.new_zeros(len(answers.lengths)).index_add(0, answers.rows, losses) / answers.lengths
