"""The one place that knows how language models differ: how they are loaded, built and given positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from datasets.errors import InputError
from models.hub.download import find_model
from models.hub.selection import HubError
from models.language.qwen_text import QWEN_TEXT_CLASSES
from models.language.special_tokens import add_special_tokens

# Checkpoints written by transformers 4.52 and later nest the decoder one level deeper than the published ones.
_NESTED_DECODER = {r"^model\.language_model\.": "model."}

# What a pass gives is asked for where it is made; it is no property of the model, though its files have it.
_OUTPUT_FORM = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}


def load_language_model(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, with CTInstruct's tokens added and its embeddings resized.

    Args:
        name: a hub name (``owner/name``, ``owner/name@revision``, ``owner/name/model.gguf``), a local folder, or a
            ``.gguf`` file.  Qwen2-VL, Qwen2.5-VL and Qwen3-VL load without their vision tower.
        dtype: of the weights.

    Raises:
        InputError: the name is neither a local model nor one that can be fetched.
    """
    try:
        path = find_model(name, bare=True)
    except HubError as error:
        raise InputError(f"language model {name!r} could not be loaded: {error}") from error
    source = str(path)
    options: dict[str, Any] = {}
    if path.suffix == ".gguf":
        source, options = str(path.parent), {"gguf_file": path.name}
    loader: type[PreTrainedModel] | type[AutoModelForCausalLM] = AutoModelForCausalLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        config = AutoConfig.from_pretrained(source, **options)
        text_config = config.get_text_config()
        if text_config.model_type in QWEN_TEXT_CLASSES:
            if text_config is not config:
                # The outer configuration has the last word on tying (the 2B model ties, the 7B model does not).
                text_config.tie_word_embeddings = config.tie_word_embeddings
            loader = QWEN_TEXT_CLASSES[text_config.model_type]
            options |= {"config": text_config, "key_mapping": _NESTED_DECODER}
        # transformers' annotation knows nothing of `output_loading_info`
        result: Any = loader.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    except (OSError, ValueError) as error:  # a folder without what it needs is either, by what is missing
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"language model {name!r} could not be loaded: give a hub name that can be fetched, a local folder "
            f"with config.json, weights and tokenizer, or a .gguf file ({reason})"
        ) from error
    model, loaded = cast(tuple[PreTrainedModel, dict[str, Any]], result)
    for form, value in _OUTPUT_FORM.items():
        setattr(model.config, form, value)
    _check_complete(name, loaded)
    add_special_tokens(tokenizer)
    resize_embeddings(model, tokenizer)
    return model, tokenizer


def _check_complete(name: str, loaded: dict[str, Any]) -> None:
    """transformers fills what a file lacks with random numbers and goes on; here that is an error."""
    for kind, what in (("missing_keys", "lacks"), ("unexpected_keys", "has, and this model has no place for,")):
        if keys := sorted(loaded[kind]):
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(f"language model {name!r} {what} {keys[0]}{more}: copy its folder again, or name another")


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model with random weights (or on the meta device, if that is the current one)."""
    if config.model_type in QWEN_TEXT_CLASSES:
        return QWEN_TEXT_CLASSES[config.model_type](config)
    return AutoModelForCausalLM.from_config(config)


def language_config_from_dict(values: dict[str, Any]) -> PreTrainedConfig:
    """The inverse of ``config.to_dict()``.

    Raises:
        InputError: the model type is not one that transformers knows, or its models do not write one text alone.
    """
    values = {**values, **_OUTPUT_FORM}
    if values.get("is_encoder_decoder") not in (None, False):
        raise InputError(f"is_encoder_decoder is {values['is_encoder_decoder']!r:.80}, and false of every model here")
    model_type = values.pop("model_type", None)
    with _quiet_transformers():
        if model_type in QWEN_TEXT_CLASSES:
            return QWEN_TEXT_CLASSES[model_type].config_class.from_dict(values)
        try:
            return AutoConfig.for_model(model_type, **values)
        except ValueError as error:
            raise InputError(f"config.json names a language model of unknown type {model_type!r}") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Inside, transformers says nothing of what it doubts in a file: what cannot be used is refused in one line."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give every token a row; never cut rows (published vocabularies are padded past their tokenizer's length)."""
    if len(tokenizer) > len(embedding_weight(model.get_input_embeddings())):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)


def embedding_weight(layer: nn.Module | None) -> Tensor:
    """The (vocabulary, hidden) weight of a model's input or output embeddings, which transformers types as modules."""
    return cast(nn.Embedding | nn.Linear, layer).weight


def uses_3d_positions(config: PreTrainedConfig) -> bool:
    """Whether the model's rotary positions have three parts (time, height, width)."""
    rope = getattr(config, "rope_parameters", None) or {}
    return "mrope_section" in rope


def token_positions(
    config: PreTrainedConfig, attention_mask: Tensor, image_mask: Tensor, grids: list[list[tuple[int, int, int]]]
) -> Tensor:
    """Rotary positions for a batch that may be padded on either side and hold several volumes a row.

    A run of text advances all three parts together.  The tokens of a volume with grid (t, h, w), spatial merge 1, take
    (start + i, start + j, start + k); text goes on after the largest of the three (transformers 4.48's rule for
    Qwen2-VL, which the released weights were trained with: t counts as well as h and w).  Padding gets 1, as there.

    Args:
        config: of the language model; one without 3D positions gets plain ones.
        attention_mask: (B, L), 1 for tokens, 0 for padding.
        image_mask: (B, L) bool, where the visual tokens stand.
        grids: for each row, the (t, h, w) of its volumes in order.

    Returns:
        (3, B, L) or, for a model with 1D positions, (B, L).

    Raises:
        ValueError: a row's image tokens do not fill its grids exactly.
    """
    if not uses_3d_positions(config):
        return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    batch, length = attention_mask.shape
    positions = torch.ones(3, batch, length, dtype=torch.long)
    for row in range(batch):
        real = attention_mask[row].bool().cpu()
        visual = image_mask[row].cpu()[real]
        filled = _row_positions(visual, grids[row])
        positions[:, row, real] = filled
    return positions.to(attention_mask.device)


def _row_positions(visual: Tensor, grids: list[tuple[int, int, int]]) -> Tensor:
    """Positions (3, n) of one row without padding; ``visual`` (n,) marks the volume tokens."""
    columns = visual.nonzero()[:, 0]
    expected = sum(t * h * w for t, h, w in grids)
    if len(columns) != expected:
        raise ValueError(f"{len(columns)} image tokens for grids {grids}, which need {expected}")
    positions = torch.arange(len(visual)).repeat(3, 1)
    seen = 0
    for t, h, w in grids:
        size = t * h * w
        begin = int(columns[seen])
        positions[:, begin : begin + size] = _grid_positions(t, h, w) + positions[:, begin : begin + 1]
        positions[:, begin + size :] += max(t, h, w) - size  # text would have gone on after as many as there are tokens
        seen += size
    return positions


@lru_cache(maxsize=256)
def _grid_positions(t: int, h: int, w: int) -> Tensor:
    """(3, t*h*w): where each token of a volume stands in its grid; not to be changed by who is given it."""
    axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in axes])
