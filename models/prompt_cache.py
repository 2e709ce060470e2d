"""Keys and values of prompts: what stands before an answer is read once, however many beams search for the answer.

transformers' ``generate`` copies a prompt for every beam before it reads it.  Here each prompt is read first, but for
its last token, and the beams get copies of its keys and values; from there on the search is transformers' own.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

from models.language.lora import LanguageModel

# What transformers calls the argument; it was renamed within the versions that are allowed here.
_GIVEN = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in _GIVEN else "past_key_values"


@dataclass(frozen=True)
class Prompt:
    """What stands before the answers of B rows.

    embeddings: (B, L, hidden); the columns that have been read are not looked at again.  positions: rotary, (3, B, L)
    or (B, L).  attention_mask: (B, L), 1 for tokens, 0 for padding, which may stand anywhere but at the end.
    cache: keys and values of the first columns, which have been read; None where none have.
    """

    embeddings: Tensor
    positions: Tensor
    attention_mask: Tensor
    cache: DynamicCache | None = None

    @property
    def columns_read(self) -> int:
        """How many of the L columns are in the cache."""
        return self.cache.get_seq_length() if self.cache is not None else 0

    def search_inputs(self, beams: int) -> dict[str, Any]:
        """What ``generate`` is given of it; its cache is a copy for each beam, and this prompt's stays as it is."""
        given = {
            "inputs_embeds": self.embeddings,
            "attention_mask": self.attention_mask,
            "position_ids": self.positions,
        }
        return given if self.cache is None else {**given, CACHE: _repeated(self.cache, beams)}


def can_read_ahead(language_model: LanguageModel) -> bool:
    """Whether a prompt's keys and values can be copied to beams: each layer's are plain tensors of all tokens.

    Sliding windows, recurrent states and caches of the checkpoint's own choice (static, quantised) are left to
    transformers, which then reads the prompt once a beam.
    """
    if getattr(language_model.generation_config, "cache_implementation", None) is not None:
        return False
    layers = new_cache(language_model).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def new_cache(language_model: LanguageModel) -> DynamicCache:
    """An empty cache with the layers that the language model needs."""
    return DynamicCache(config=language_model.config.get_text_config(decoder=True))


def read_ahead(language_model: LanguageModel, prompt: Prompt) -> Prompt:
    """The prompt with all columns but the last in its cache; ``generate`` reads that one, for the first new token."""
    begin, end = prompt.columns_read, prompt.embeddings.shape[1] - 1
    if begin >= end:
        return prompt
    cache = new_cache(language_model) if prompt.cache is None else _repeated(prompt.cache, 1)
    read_on(
        language_model,
        prompt.embeddings[:, begin:end],
        prompt.positions[..., begin:end],
        prompt.attention_mask[:, :end],
        cache,
        logits_to_keep=1,
    )
    return replace(prompt, cache=cache)


def read_on(
    language_model: LanguageModel,
    embeddings: Tensor,
    positions: Tensor,
    attention_mask: Tensor,
    cache: DynamicCache | None,
    **options: Any,
) -> Any:
    """The language model's output over columns that follow those in a cache, which takes them up.

    Args:
        embeddings, positions: of n columns, (B, n, hidden) and (3, B, n) or (B, n).
        attention_mask: (B, L), of all columns, those in the cache and these.
        cache: None where nothing was read before and nothing is to be kept.
        options: of the forward pass.
    """
    held = {} if cache is None else {CACHE: cache}
    return language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        attention_mask=attention_mask,
        use_cache=cache is not None,
        **held,
        **options,
    )


def cache_of(layers: list[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of each layer's keys and values (B, heads, n, C)."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def layers_of(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """The inverse of `cache_of`."""
    return [
        (layer.keys, layer.values)
        for layer in cache.layers
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    ]


def _repeated(cache: DynamicCache, times: int) -> DynamicCache:
    """A copy, each row `times` over, next to each other as ``generate`` has the beams of a row."""
    copied = cache_of(layers_of(cache))
    if times > 1:
        copied.batch_repeat_interleave(times)
    return copied
