"""The options of the search for an answer, as a model folder keeps them for transformers."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from datasets.errors import CheckpointError

_COUNTS = ("num_beams", "max_new_tokens", "max_length", "top_k")  # at least 1, of top_k 0
_ABOVE_0 = ("temperature", "top_p", "repetition_penalty")
_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")


def search_options(values: dict[str, Any]) -> dict[str, Any]:
    """The same options; CheckpointError, or an error of transformers, for values that make no search.

    None stands for the default everywhere.  transformers itself takes any value for most, and stumbles over it later.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name in _COUNTS:
        if name in given and (type(given[name]) is not int or given[name] < (name != "top_k")):
            raise CheckpointError(f"{name} is {given[name]!r:.80}, not a count")
    for name in _ABOVE_0:
        if name in given and not (type(given[name]) in (int, float) and 0 < given[name] < float("inf")):
            raise CheckpointError(f"{name} is {given[name]!r:.80}, not a number above 0")
    for name in _TOKENS:
        tokens = given.get(name, [])
        if not all(type(token) is int for token in (tokens if isinstance(tokens, list) else [tokens])):
            raise CheckpointError(f"{name} is {given[name]!r:.80}, not the number of a token")
    if not isinstance(given.get("do_sample", False), bool):
        raise CheckpointError(f"do_sample is {given['do_sample']!r:.80}, neither true nor false")
    GenerationConfig(**values).validate()
    return values
