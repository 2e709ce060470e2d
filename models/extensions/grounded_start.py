"""Where a language model made on the spot begins: its words for what can be seen stand where the images of it stand.

Text-only and image-text pretraining give a large language model this much before it is tuned.  From random weights,
"Is there an effusion?" has hardly a gradient to learn from: without the image the answer is a coin toss, and so it is
without the word.  A word has to find its tokens first.  So words begin at pretraining's embeddings of the labels
that they are part of, the projector begins by writing the visual tokens in the same coordinates, and the first layer's
attention begins by comparing the two.  In the next layers some heads begin by saying the word that they look at, so
that where to look is all that a multiple choice has to teach.  All of it is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from datasets.errors import InputError
from models.ctinstruct import CTInstruct

REACH = 100.0  # tokens between a word and what it is compared with, over which rotary positions shall turn by < 1 rad
WORD_LENGTH = 0.5  # root mean square of a label's coordinates, and of the channels that tell words apart
SHARPNESS = 1.0  # weights of query and key: how far the first layer prefers what is alike
COPYING_LAYERS = slice(1, 3)  # behind the one that compares
LOUDNESS = 0.3  # weight of what was copied in the next word's logits


@torch.no_grad()
def start_grounded(
    model: CTInstruct, labels_to_texts: nn.Linear, tokens_to_texts: nn.Linear, embeddings: Mapping[str, Tensor]
) -> None:
    """Give words (input and output), projector and attention that start.

    Args:
        model: a new one around `build_tiny_language_model`, whose input and output embeddings are not tied.
        labels_to_texts, tokens_to_texts: pretraining's projections (`models.checkpoints.pretrained_vision`).
        embeddings: the text encoder's (query width,) of each label.

    Raises:
        InputError: there is no label, or the model's heads are too narrow for positions over `REACH` tokens.
    """
    config = model.language_model.config.get_text_config()
    width = config.hidden_size
    slow = slow_channels(width // config.num_attention_heads, config.rope_parameters["rope_theta"])
    if not embeddings:
        raise InputError("--grounded_start: the training data name no label that a word could begin at")
    if not slow:
        raise InputError(f"--grounded_start: no channel of the language model turns slowly enough over {REACH} tokens")
    labels = F.normalize(labels_to_texts(torch.stack(list(embeddings.values()))), dim=-1)
    *_, directions = torch.linalg.svd(labels, full_matrices=False)
    directions = directions[: min(len(slow) * config.num_key_value_heads, width // 4)]
    coordinates = F.normalize(labels @ directions.T, dim=-1)
    _start_words(model, dict(zip(embeddings, coordinates, strict=True)))
    _start_projector(model, directions @ tokens_to_texts.weight, directions @ tokens_to_texts.bias, tokens_to_texts)
    _start_attention(model, len(directions), slow)
    _start_copying(model)


def slow_channels(head_width: int, theta: float) -> list[int]:
    """A head's channels that rotary positions turn by less than one radian over `REACH` tokens."""
    half = head_width // 2
    first = next((i for i in range(half) if theta ** (-i / half) * REACH < 1), half)
    return [*range(first, half), *range(half + first, 2 * half)]


def _start_words(model: CTInstruct, coordinates: Mapping[str, Tensor]) -> None:
    """Words: label coordinates in the first channels, then a random code of their own; none in the image's half.

    The tokens of a label get the smallest coordinates whose mean is the label's (least squares).
    """
    table = model.language_model.get_input_embeddings().weight
    width, count = table.shape[1], len(next(iter(coordinates.values())))
    spellings = [
        (_token_ids(model.tokenizer, spelling), place)
        for label, place in coordinates.items()
        for spelling in dict.fromkeys((label.lower(), label.capitalize()))
    ]
    used = sorted({token for ids, _ in spellings for token in ids})
    shares = torch.zeros(len(spellings), len(used))
    for row, (ids, _) in enumerate(spellings):
        for token in ids:
            shares[row, used.index(token)] += 1 / len(ids)
    words = torch.linalg.pinv(shares) @ torch.stack([place for _, place in spellings])
    table.zero_()
    table[:, width // 4 : width // 2].normal_(std=WORD_LENGTH)
    table[torch.tensor(used), :count] = words * WORD_LENGTH * (width // 4) ** 0.5


def _token_ids(tokenizer: PreTrainedTokenizerBase, label: str) -> list[int]:
    """As inside a sentence."""
    return tokenizer(f" {label}", add_special_tokens=False)["input_ids"]


def _start_projector(model: CTInstruct, weight: Tensor, bias: Tensor, from_tokens: torch.nn.Linear) -> None:
    """Visual tokens: gelu(x) and gelu(-x) of each coordinate x in the image's half; their difference is x."""
    first, second = model.vision.bridger[0], model.vision.bridger[2]
    count, width = len(weight), first.out_features
    spare = min(width - 2 * count, from_tokens.out_features)
    first.weight[: 2 * count] = torch.cat([weight, -weight])
    first.bias[: 2 * count] = torch.cat([bias, -bias])
    first.weight[2 * count : 2 * count + spare] = from_tokens.weight[:spare]
    first.bias[2 * count : 2 * count + spare] = from_tokens.bias[:spare]
    second.bias.zero_()
    second.weight[width // 2 :] = 0
    unit = torch.eye(count)
    for start, sign in ((width // 2, 1), (3 * width // 4, -1)):
        second.weight[start : start + count, : 2 * count] = sign * torch.cat([unit, -unit], dim=1)


def _start_attention(model: CTInstruct, count: int, slow: list[int]) -> None:
    """In the first layer, queries read a word's coordinates and keys those of visual tokens, dealt to the heads."""
    config = model.language_model.config.get_text_config()
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    attention, width = model.language_model.model.layers[0].self_attn, config.hidden_size
    queries = attention.q_proj.weight.view(heads, -1, width)
    keys = attention.k_proj.weight.view(groups, -1, width)
    for coordinate in range(count):
        group, channel = coordinate % groups, slow[coordinate // groups]
        keys[group, channel] = 0
        keys[group, channel, width // 2 + coordinate] = SHARPNESS
        keys[group, channel, 3 * width // 4 + coordinate] = -SHARPNESS
        for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
            queries[head, channel] = 0
            queries[head, channel, coordinate] = SHARPNESS


def _start_copying(model: CTInstruct) -> None:
    """In `COPYING_LAYERS`, the last group of heads writes the code of the word it looks at where the output reads it.

    That is into the image's half, which is nearly empty in a word's own place: what was looked at becomes likelier as
    the next word, and the word itself does not.  Heads that copy in this way take long to form by themselves (Olsson et
    al., In-context Learning and Induction Heads, 2022).
    """
    config = model.language_model.config.get_text_config()
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    head_width, per_group = width // heads, heads // groups
    count = min(head_width, width // 4)
    code, copied = torch.arange(count) + width // 4, torch.arange(count) + width // 2
    for layer in model.language_model.model.layers[COPYING_LAYERS]:
        attention = layer.self_attn
        values = attention.v_proj.weight.view(groups, head_width, width)[-1]
        values.zero_()
        values[torch.arange(count), code] = 1
        outputs = attention.o_proj.weight.view(width, heads, head_width)[:, -per_group:]
        outputs.zero_()
        outputs[copied, :, torch.arange(count)] = 1 / per_group
    words = model.language_model.get_input_embeddings().weight
    model.language_model.get_output_embeddings().weight[:, copied] = LOUDNESS * words[:, code]
