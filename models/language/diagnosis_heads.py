"""Disease confidences: one linear read-out a disease on the hidden state of its ``<disease_confidence>`` token."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from datasets.vocabulary import diagnosis_facts, diseases_of
from models.masks.losses import weighted_bce


def positive_weights(label_set: str) -> Tensor:
    """The weight of a positive case for each disease, (n,)."""
    return torch.tensor([weight for _, weight in diagnosis_facts()[label_set]])


class DiagnosisHeads(nn.Module):
    """For each label set the released model has n separate Linear(hidden, 1); here they are the rows of one weight.

    A sample's label set chooses the heads, never the number of its tokens: token i is read by head i.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(hidden_size, len(rows)) for name, rows in diagnosis_facts().items()}
        )

    def forward(self, hidden: Tensor, label_set: str) -> Tensor:
        """Logits (m,) of hidden states (m, hidden); row i belongs to disease i, and m may be less than all diseases."""
        head = cast(nn.Linear, self.heads[label_set])
        count = len(hidden)
        weight, bias = head.weight[:count], head.bias[:count]
        return (hidden * weight.to(hidden.dtype)).sum(-1) + bias.to(hidden.dtype)

    def of_disease(self, hidden: Tensor, disease: str, label_set: str) -> Tensor:
        """Logit (), float32, of one hidden state (hidden,) as the head of a disease reads it.

        bf16 would leave a logit of 4 in steps of 1/32: confidences of many patients would be equal, and their ranks.
        """
        head = cast(nn.Linear, self.heads[label_set])
        row = diseases_of(label_set).index(disease)
        return (hidden.float() * head.weight[row].float()).sum() + head.bias[row].float()

    def loss(self, hidden: Tensor, targets: Tensor, label_set: str) -> Tensor:
        """(): BCE, weighted by `positive_weights`, of the logits of hidden states (m, hidden).

        targets: (n,) of all diseases in the order of the heads, 0, 1 or NaN where not known.
        """
        logits = self(hidden, label_set)
        weights = positive_weights(label_set).to(logits.device)[: len(logits)]
        return weighted_bce(logits, targets[: len(logits)], weights)
