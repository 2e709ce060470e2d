"""Attention over packed sequences: a beginning that all parts see, and parts that do not see each other.

The parts are gathered into blocks of about the same length, and each block attends to its own tokens and to a copy of
the beginning's keys and values.  Results are those of one attention mask over the whole sequence.

With such a mask, most scores would be computed to be thrown away: for 18 questions about a volume, six of seven
(`benchmarks/stages_packed.py`).  The copies cost little where a volume has a few hundred visual tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.language.lora import LanguageModel
from models.language.step_attention import attend

NAME = "packed"


@dataclass(frozen=True)
class AttentionBlock:
    """n parts of similar length, from any of the packed sequences (G, K), for one call of attention.

    Indices run over the G * K places of all sequences end to end.

    queries: (n, L) int64, the places of each part; the last is repeated up to the longest part's length L.
    keys: (n, M) int64, the places that a part may look at: those of its beginning, then its own; padded likewise.
    mask: (n, 1, L, M) bool, which of the keys each query looks at.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor

    def to(self, device: torch.device | None) -> AttentionBlock:
        """The same block on a device."""
        return AttentionBlock(self.queries.to(device), self.keys.to(device), self.mask.to(device))


@dataclass(frozen=True)
class PackedLayout:
    """How packed sequences (G, K) are attended to.

    blocks: every part, and every beginning, is in one of them.
    order: (G * K,) int64, for each place the row of its output among the blocks' outputs end to end; for a spare
        place, which belongs to no part, any row.
    """

    blocks: list[AttentionBlock]
    order: Tensor


class _Run(NamedTuple):
    """Consecutive places of one part, or of a beginning itself.

    first, length: of the part; start, beginning: first place and length of the beginning that it sees.
    """

    first: int
    length: int
    start: int
    beginning: int


def packed_layout(part: Tensor, device: torch.device | None = None) -> PackedLayout:
    """Sort the parts of packed sequences into blocks of similar length.

    part: (G, K) int64, what each place belongs to: 0 for the beginning, which comes first; 1, 2, ... for a part, whose
        places are consecutive; -1 for none, a spare place.
    device: where the layout's tensors go; None leaves them on the CPU.
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
    return PackedLayout([block.to(device) for block in blocks], order.to(device))


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: PackedLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the interface that transformers calls: query, key, value (G, heads, K, C) -> (G, K, heads, C).

    packed: the layout, in whose place `attention_mask` is not read; None for attention as `step_attention` has it.

    What would be bf16 is float32 in training on a CPU, and the result has the type of the values.
    """
    if packed is None:
        return attend(module, query, key, value, attention_mask, **options)
    shape, given = query.transpose(1, 2).shape, value.dtype
    query, key, value = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))  # (G * K, heads, C)
    in_bf16 = value.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    exact = torch.is_grad_enabled() and query.device.type == "cpu" and in_bf16
    if exact:  # torch's backward pass of short sequences in bf16 takes a CPU two to five times as long as in float32
        query, key, value = query.float(), key.float(), value.float()
    outputs = []
    with torch.autocast("cpu", enabled=False) if exact else nullcontext():
        for block in packed.blocks:
            queries, keys, values = (
                states.transpose(1, 2) for states in (query[block.queries], key[block.keys], value[block.keys])
            )
            attended, _ = sdpa_attention_forward(module, queries, keys, values, block.mask, **options)
            outputs.append(attended.flatten(0, 1))
    return torch.cat(outputs)[packed.order].view(shape).to(given), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend_packed)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def use_packed_attention(model: LanguageModel) -> None:
    """Let a model take ``packed=PackedLayout`` in its forward pass; without it its attention is transformers' SDPA."""
    model.set_attn_implementation(NAME)
