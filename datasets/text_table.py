"""Embeddings of all texts of a run, made once and looked up by text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

Embed = Callable[[list[str]], Tensor]  # texts -> (n, C), as `models.text.text_encoder.TextEncoder.encode` does


class TextTable:
    """Text embeddings by text: made before loader processes start, which then share the memory.

    texts: may repeat; each distinct one is embedded once.  embed: texts -> (n, C); called once, here.
    """

    def __init__(self, texts: Iterable[str], embed: Embed) -> None:
        distinct = list(dict.fromkeys(texts))
        self.rows = {text: row for row, text in enumerate(distinct)}
        self.embeddings = embed(distinct).float().cpu()

    def __getitem__(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), C) float32; KeyError for a text that was not among those of the table."""
        return self.embeddings[[self.rows[text] for text in texts]]
