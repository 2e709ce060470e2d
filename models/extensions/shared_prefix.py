"""Questions about one volume share its tokens: the language model reads them once, and each goes on from there.

The rows of a batch that ask about the same volume are packed into one sequence: their common beginning, then each row's
own part.  A part looks at the beginning and at itself (`packed_attention`), and every token keeps the position that it
has in its own row.

The hidden states are those of separate rows.  In a causal language model a token depends on the tokens before it alone,
and up to the last visual token, and on for as long as the rows agree, these are the same in all of them.
(Zheng et al., SGLang, 2024, share prefixes in this way at inference.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from models.extensions.packed_attention import PackedLayout, packed_layout
from models.language.qwen_text import QWEN_TEXT_CLASSES


@dataclass(frozen=True)
class SharedPrefix:
    """Where each token of B rows of length L stands in G packed sequences of length K, and the way back.

    group, column: (B, L) int64, the sequence that holds a row's token, and its place there; padding of a row points at
        the row's first token.
    row, position: (G, K) int64, the row whose token stands at a packed place, and the token's column there; a spare
        place at the end of a shorter sequence takes any token.
    layout: which places each packed place looks at.
    """

    group: Tensor
    column: Tensor
    row: Tensor
    position: Tensor
    layout: PackedLayout

    def pack(self, rows: Tensor) -> Tensor:
        """What belongs to the rows' tokens, (B, L, ...) -> (G, K, ...)."""
        return rows[self.row, self.position]

    def pack_positions(self, positions: Tensor) -> Tensor:
        """Rotary positions (3, B, L) or (B, L) -> (3, G, K) or (G, K)."""
        return positions[..., self.row, self.position]


def shared_prefix(
    input_ids: Tensor, attention_mask: Tensor, image_mask: Tensor, volumes_of: Sequence[int]
) -> SharedPrefix | None:
    """How to pack the rows of a batch, or None where no two rows can share.

    Args:
        input_ids, attention_mask, image_mask: (B, L); rows are padded on the left; image_mask is True at visual tokens.
        volumes_of: for each row the first row with the same volumes, as of ``InstructionBatch``.
    """
    starts = attention_mask.bool().int().argmax(1).tolist()
    length = input_ids.shape[1]
    groups: list[tuple[int, list[int]]] = []  # tokens shared, rows
    for first in dict.fromkeys(volumes_of):
        rows = [row for row, other in enumerate(volumes_of) if other == first]
        shared = _shared_length(input_ids, image_mask, starts, rows) if len(rows) > 1 else 0
        groups += [(shared, rows)] if shared else [(0, [row]) for row in rows]
    if not any(shared for shared, _ in groups):
        return None
    sizes = [shared + sum(length - starts[row] - shared for row in rows) for shared, rows in groups]
    places = max(sizes)
    group = torch.empty(input_ids.shape, dtype=torch.long)
    column = torch.empty_like(group)
    taken_row = torch.zeros(len(groups), places, dtype=torch.long)
    taken_position = torch.zeros_like(taken_row)
    part = torch.full((len(groups), places), -1)  # 0: the shared beginning; 1, 2, ...: a row's own; -1: spare
    for index, (shared, rows) in enumerate(groups):
        part[index, :shared] = 0
        taken_row[index, :shared] = rows[0]
        taken_position[index, :shared] = torch.arange(shared) + starts[rows[0]]
        cursor = shared
        for number, row in enumerate(rows, start=1):
            begin, own = starts[row] + shared, length - starts[row] - shared
            group[row] = index
            column[row, : starts[row]] = 0 if shared else cursor
            column[row, starts[row] : begin] = torch.arange(shared)
            column[row, begin:] = torch.arange(own) + cursor
            part[index, cursor : cursor + own] = number
            taken_row[index, cursor : cursor + own] = row
            taken_position[index, cursor : cursor + own] = torch.arange(own) + begin
            cursor += own
    device = input_ids.device
    layout = packed_layout(part, device)
    return SharedPrefix(
        group.to(device), column.to(device), taken_row.to(device), taken_position.to(device), layout=layout
    )


def can_share_prefix(config: PreTrainedConfig) -> bool:
    """Whether packed rows give this language model the hidden states of separate rows.

    That needs softmax attention over all earlier tokens, without a sliding window or a recurrence, positions that are
    given and not counted by the model, and a class that passes extra arguments of its forward pass on to attention.
    It is known of the families named here.
    """
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return config.model_type in ("llama", "qwen2", "qwen3", *QWEN_TEXT_CLASSES) and layers == {"full_attention"}


def _shared_length(input_ids: Tensor, image_mask: Tensor, starts: Sequence[int], rows: Sequence[int]) -> int:
    """Number of tokens that the rows begin with alike; 0 where they do not hold all of the visual tokens.

    Each row keeps at least one token of its own.  starts: the first column of each row that is not padding.
    """
    shortest = input_ids.shape[1] - max(starts[row] for row in rows)
    heads = torch.stack([input_ids[row, starts[row] : starts[row] + shortest] for row in rows])
    differs = (heads != heads[:1]).any(0).nonzero()
    shared = min(int(differs[0]) if len(differs) else shortest, shortest - 1)
    visual = int(image_mask[rows[0]].sum())
    return shared if visual and int(image_mask[rows[0], starts[rows[0]] :][:shared].sum()) == visual else 0
