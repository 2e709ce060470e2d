"""Attention over packed sequences: a beginning that all parts see, and parts that do not see each other.

A mask over the whole sequence would have most of the scores computed to be thrown away: for 18 questions about a
volume, six of seven (`benchmarks/stages_packed.py`).  So the parts are gathered into blocks of about the same length,
and each block attends to its own tokens and to the beginning.  Results are those of the mask.  Each part holds a copy
of the beginning's keys and values for it, which is little where a volume has a few hundred visual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "packed"


@dataclass(frozen=True)
class AttentionBlock:
    """Parts of similar length, of any sequence; indices count the places of all sequences end to end.

    queries (n, L): a part's places.  keys (n, M): those of its beginning, then its own.  In both the last place is
    repeated up to the length of the longest.  mask (n, 1, L, M) bool: which of the keys each place looks at.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PackedLayout:
    """Blocks, and for each place (G * K) where their outputs, end to end, hold its own; spare places hold any."""

    blocks: list[AttentionBlock]
    order: Tensor


class _Run(NamedTuple):
    """A part, or the beginning itself: its first place and its length, and those of the beginning that it sees."""

    first: int
    length: int
    start: int
    beginning: int


def packed_layout(part: Tensor, device: torch.device | None = None) -> PackedLayout:
    """The layout, on a device, of sequences whose places belong to the beginning (0), to a part (1, 2, ...) or to none.

    part: (G, K) int64, -1 for none; the beginning comes first, and each part is one run.
    """
    places = part.shape[1]
    buckets: dict[tuple[int, bool], list[_Run]] = {}
    for group, row in enumerate(part.tolist()):
        start, beginning = group * places, row.count(0)
        runs = [_Run(start, beginning, start, 0)] if beginning else []
        for number in range(1, max(row) + 1):
            runs.append(_Run(start + row.index(number), row.count(number), start, beginning))
        for run in runs:  # lengths within a factor of two
            buckets.setdefault((run.length.bit_length(), run.beginning == 0), []).append(run)
    order = torch.zeros(part.numel(), dtype=torch.long)
    blocks, taken = [], 0
    for members in buckets.values():
        first, length, start, beginning = torch.tensor(members).T.unsqueeze(2)
        own, before = torch.arange(int(length.max())), torch.arange(int(beginning.max()))
        queries = first + own.minimum(length - 1)
        keys = torch.cat([start + before.minimum((beginning - 1).clamp_min(0)), queries], dim=1)
        looked_at = (own <= own[:, None]).expand(len(members), -1, -1)
        seen_before = (before < beginning).unsqueeze(1).expand(-1, len(own), -1)
        blocks.append(AttentionBlock(queries, keys, torch.cat([seen_before, looked_at], dim=2).unsqueeze(1)))
        order[queries] = taken + torch.arange(queries.numel()).view(queries.shape).minimum(
            (torch.arange(len(members)) * len(own)).unsqueeze(1) + length - 1
        )
        taken += queries.numel()
    moved = [AttentionBlock(*(tensor.to(device) for tensor in vars(block).values())) for block in blocks]
    return PackedLayout(moved, order.to(device))


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: PackedLayout | None = None,
    **options,
) -> tuple[Tensor, None]:
    """transformers' interface of attention: query, key, value (G, heads, K, C) -> (G, K, heads, C).

    Without a layout it is transformers' own attention.
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    shape = query.transpose(1, 2).shape
    query, key, value = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    outputs = []
    for block in packed.blocks:
        states = (query[block.queries], key[block.keys], value[block.keys])
        attended, _ = sdpa_attention_forward(module, *(x.transpose(1, 2) for x in states), block.mask, **options)
        outputs.append(attended.flatten(0, 1))
    return torch.cat(outputs)[packed.order].view(shape), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend_packed)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model take ``packed=PackedLayout`` in its forward pass; without it its attention is transformers' SDPA."""
    model.set_attn_implementation(NAME)
