"""The query side of every mask decoder: queries look at the feature maps of a slice or patch, layer after layer.

A query asks for one structure.  Queries do not see each other, so what one finds does not depend on what else is asked.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.configuration import VisionConfig


class QueryLayer(nn.Module):
    """Cross-attention and feed-forward, each with its norm before it, without self-attention."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)  # quirk: in the published weights, and unused (there is no self-attention)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None = None) -> Tensor:
        """queries (S, n, C), keys and values (S, m, C), padding (S, m) True where not to look -> (S, n, C)."""
        normed = self.norm2(queries)
        attended = self.multihead_attn(normed, keys, values, key_padding_mask=padding, need_weights=False)[0]
        queries = queries + self.dropout(attended)
        hidden = self.dropout(F.relu(self.linear1(self.norm3(queries))))
        return queries + self.dropout(self.linear2(hidden))


class QueryDecoder(nn.Module):
    """The stack of query layers with its final norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QueryLayer(config.query_width, config.query_heads, config.query_feedforward, config.query_dropout)
            for _ in range(config.query_layers)
        )
        self.norm = nn.LayerNorm(config.query_width)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """queries (S, n, C) look at memory (S, m, C) of the positions (m, C) -> (S, n, C).

        Where `padding` (S, m) is True no query looks.
        """
        keys = memory + positions  # quirk: positions are added to the keys only, not to the values
        for layer in self.layers:
            queries = layer(queries, keys, memory, padding)
        return self.norm(queries)
