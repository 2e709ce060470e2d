"""Questions that share a volume's tokens: attention in blocks beside attention through one mask over all of them."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measure import Aim, Row, best_seconds, device, precision
from benchmarks.stages_language import model_of
from models.extensions.packed_attention import packed_layout, use_packed_attention

VOLUMES = 3
BEGINNING = 60  # a volume's slices and the words around them
LENGTHS = [*[45] * 16, 150, 220]  # short questions, a diagnosis and a report, with their answers


def packed_questions() -> tuple[list[Row], list[Aim]]:
    """Forward and backward pass of the tiny language model over the questions about a few volumes."""
    language_model = model_of("tiny").language_model.train()
    use_packed_attention(language_model)
    lengths = torch.tensor([BEGINNING, *LENGTHS])
    part = torch.arange(len(lengths)).repeat_interleave(lengths).expand(VOLUMES, -1).contiguous()
    places = part.shape[1]
    layout = packed_layout(part, device())
    seen = ((part[:, None] == part[:, :, None]) | (part[:, None] == 0)) & torch.ones(places, places).bool().tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(precision()).min).unsqueeze(1)
    mask = mask.to(device(), precision())
    width = language_model.config.hidden_size
    states = torch.randn(VOLUMES, places, width, device=device(), dtype=precision())

    def run(**options: Any) -> None:
        output = language_model(inputs_embeds=states, logits_to_keep=1, use_cache=False, **options)
        output.logits.sum().backward()

    blocks = best_seconds(lambda: run(packed=layout))
    whole = best_seconds(lambda: run(attention_mask=mask))
    share = sum(block.mask.numel() for block in layout.blocks) / mask.numel()
    row = Row(f"{len(LENGTHS)} questions on each of {VOLUMES} volumes, forward + backward, tiny", blocks)
    row.note = f"{whole:.2f} s through one mask; the blocks hold {share:.0%} of its scores"
    return [row], [Aim("questions that share a volume, of the time through one mask", blocks / whole, 1.0)]
