"""Questions about the same volumes share the beginning of their prompts: it is read once, and each goes on from there.

A prefix is a prompt up to its last visual token.  It is always read by itself, whoever asks and however long the
questions are, so an answer does not depend on whether the prefix was held from an earlier question.
(Zheng et al., SGLang, 2024, share prefixes in this way.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct, EncodedRows
from models.encoders.contract import EncodedVolume
from models.prompt_cache import Prompt, cache_of, layers_of, new_cache, read_on


@dataclass(frozen=True)
class ReadPrefix:
    """The prefix of a prompt about some volumes: its ids (n,), and a cache of one row with its keys and values."""

    volumes: tuple[EncodedVolume, ...]
    token_ids: Tensor
    cache: DynamicCache

    def is_of(self, volumes: Sequence[EncodedVolume], token_ids: Tensor) -> bool:
        """Whether these ids about these very encodings are what was read."""
        return _same(self.volumes, volumes) and torch.equal(self.token_ids, token_ids)


class HeldPrefixes:
    """Prefixes that the next questions may share: the latest of each volume, or list of volumes, until `keep` drops it.

    A token takes keys and values of every layer: at 2B in bf16 28 KiB, so 28 MiB for 1,000 visual tokens.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, ...], ReadPrefix] = {}  # by the identities of the encodings, which it keeps alive

    def keep(self, encoded: Collection[EncodedVolume]) -> None:
        """Drop the prefixes of all volumes but these."""
        kept = {id(volume) for volume in encoded}
        self._held = {key: prefix for key, prefix in self._held.items() if kept.issuperset(key)}

    def prompt(self, model: CTInstruct, batch: InstructionBatch, encoded: EncodedRows) -> Prompt:
        """The prompts of a batch, with the prefix of each in the cache.

        Columns are ordered anew, so that all prefixes end in one column: padding, prefix, padding, the row's own part.
        """
        images = batch.input_ids == model.image_id
        starts, ends = _prefixes(images, batch.attention_mask)
        # there is nothing to share; or, where a row ends in a visual token, nothing to go on with
        if not images.any() or max(ends) == images.shape[1]:
            return Prompt(*model.input_embeddings(batch, encoded), batch.attention_mask)
        ids = [batch.input_ids[row, start:end] for row, (start, end) in enumerate(zip(starts, ends, strict=True))]
        wanted = [row for row in range(len(ids)) if len(ids[row])]
        known = {row: prefix for row in wanted if (prefix := self._find(encoded[row], ids[row]))}
        if len(known) == len(wanted):  # no visual token has to be made
            embeddings = model.language_model.get_input_embeddings()(batch.input_ids)
            positions = model.positions(batch, encoded)
        else:
            embeddings, positions = model.input_embeddings(batch, encoded)
        for row in wanted:
            if row in known:
                continue
            prefix = self._find(encoded[row], ids[row])  # an earlier row of the batch may have read it
            if prefix is None:
                place = slice(starts[row], ends[row])
                cache = new_cache(model.language_model)
                read_on(
                    model.language_model,
                    embeddings[row : row + 1, place],
                    positions[..., row : row + 1, place],
                    batch.attention_mask[row : row + 1, place],
                    cache,
                    logits_to_keep=1,
                )
                prefix = ReadPrefix(tuple(encoded[row]), ids[row].clone(), cache)
                self._held[_key(encoded[row])] = prefix
            known[row] = prefix
        columns, real = _layout(starts, ends, batch.input_ids.shape[1])
        columns, rows = columns.to(embeddings.device), torch.arange(len(ids), device=embeddings.device).unsqueeze(1)
        return Prompt(
            embeddings[rows, columns],
            positions[..., rows, columns],
            real.to(batch.attention_mask),
            _joined([known.get(row) for row in range(len(ids))]),
        )

    def _find(self, volumes: Sequence[EncodedVolume], token_ids: Tensor) -> ReadPrefix | None:
        held = self._held.get(_key(volumes))
        return held if held is not None and held.is_of(volumes, token_ids) else None


def _key(volumes: Sequence[EncodedVolume]) -> tuple[int, ...]:
    return tuple(id(volume) for volume in volumes)


def _same(left: Sequence[EncodedVolume], right: Sequence[EncodedVolume]) -> bool:
    return len(left) == len(right) and all(one is other for one, other in zip(left, right, strict=True))


def _prefixes(images: Tensor, attention_mask: Tensor) -> tuple[list[int], list[int]]:
    """First column of each row's prefix, and the one behind its last; of a row without visual tokens, nothing."""
    length = images.shape[1]
    starts = attention_mask.bool().int().argmax(1)
    behind = length - images.int().flip(1).argmax(1)
    return starts.tolist(), torch.where(images.any(1), behind, starts).tolist()


def _layout(starts: Sequence[int], ends: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """For each row the columns (B, N + M) that it had before, and whether they hold a token.

    The N first columns are those of prefixes, which end there, the M others those of the rows' own parts.
    """
    start, end = torch.tensor(starts).unsqueeze(1), torch.tensor(ends).unsqueeze(1)
    shared, own = int((end - start).max()), length - min(ends)
    of_prefix = end - shared + torch.arange(shared)
    of_row = (length - own + torch.arange(own)).expand(len(starts), -1)
    columns, real = torch.cat([of_prefix, of_row], dim=1), torch.cat([of_prefix >= start, of_row >= end], dim=1)
    return columns.clamp_min(0), real


def _joined(prefixes: Sequence[ReadPrefix | None]) -> DynamicCache | None:
    """One cache with a row for each prefix, padded on the left with zeros; None where no row has one."""
    read = [layers_of(prefix.cache) if prefix else None for prefix in prefixes]
    some = next((layers for layers in read if layers), None)
    if some is None:
        return None
    longest = max(layers[0][0].shape[-2] for layers in read if layers)

    def padded(layer: int, which: int) -> Tensor:
        empty = some[layer][which][..., :0, :]
        rows = [layers[layer][which] if layers else empty for layers in read]
        return torch.cat([functional.pad(row, (0, 0, longest - row.shape[-2], 0)) for row in rows])

    return cache_of([(padded(layer, 0), padded(layer, 1)) for layer in range(len(some))])
