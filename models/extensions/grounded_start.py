"""Where a language model made on the spot begins: a word for something visible is alike the tokens that show it.

    words       a word that is part of a label begins at pretraining's text embedding of that label
    projector   visual tokens begin as pretraining's projection of them to texts: the same coordinates as the words'
    layer 0     attention begins by comparing the two: a word looks at the tokens that show what it names
    layers 1-2  some heads begin by repeating the word that they look at, so that to answer a multiple choice only
                where to look is left to learn

All of it is trained on from there.

A large language model has learned this much from text and from images with texts before it is tuned.  From random
weights "Is there an effusion?" has hardly a gradient to learn from: without the image the answer is a coin toss, and so
it is without the word; a word has to find its tokens first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention

from datasets.errors import InputError
from models.ctinstruct import CTInstruct
from models.extensions.projector_start import projector_layers
from models.language.loading import embedding_weight

REACH = 100.0  # tokens between a word and what it is compared with, over which rotary positions shall turn by < 1 rad
WORD_LENGTH = 0.5  # root mean square of a label's coordinates, and of the channels that tell words apart
SHARPNESS = 1.0  # weights of query and key: how far the first layer prefers what is alike
COPYING_LAYERS = slice(1, 3)  # behind the one that compares
LOUDNESS = 0.3  # weight of what was copied in the next word's logits


@torch.no_grad()
def start_grounded(
    model: CTInstruct, labels_to_texts: nn.Linear, tokens_to_texts: nn.Linear, embeddings: Mapping[str, Tensor]
) -> None:
    """Set the weights of words (input and output embeddings), projector and attention to the start described above.

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
    """Embeddings of words: coordinates of labels in the first quarter of the channels, a random code in the second.

    The second half is left to the image.  The tokens of a label get the smallest coordinates whose mean is the label's
    (least squares).

    coordinates: (n,) of each label, of length 1.
    """
    table = embedding_weight(model.language_model.get_input_embeddings())
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
    """Tokens of a label where it stands inside a sentence, behind a space."""
    return tokenizer(f" {label}", add_special_tokens=False)["input_ids"]


def _attentions(model: CTInstruct) -> list[Qwen2VLAttention]:
    """The attention of each layer; `build_tiny_language_model` makes Qwen2-VL's."""
    return [module for module in model.language_model.modules() if isinstance(module, Qwen2VLAttention)]


def _start_projector(model: CTInstruct, weight: Tensor, bias: Tensor, from_tokens: nn.Linear) -> None:
    """The projector writes the coordinates of visual tokens into the image's half of the channels, each twice.

    The first layer computes a coordinate x and -x; the second gives gelu(x) - gelu(-x) = x, and -x a quarter further.

    weight (n, token width) and bias (n,) give the n coordinates of a token; from_tokens fills the channels left over.
    """
    first, second = projector_layers(model.vision)
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
    """In the first layer, queries read the coordinates of words and keys those of visual tokens.

    Each of the `count` coordinates has one of the channels `slow` of one group of heads.
    """
    config = model.language_model.config.get_text_config()
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    attention, width = _attentions(model)[0], config.hidden_size
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
    """In `COPYING_LAYERS`, the last group of heads makes the word that it looks at likelier as the next one.

    It copies that word's code into the image's half of the channels, which the output layer compares with the codes of
    all words.  That half is nearly empty in a word's own embedding, so no word makes itself likelier.  Heads that copy
    in this way take long to form by themselves (Olsson et al., In-context Learning and Induction Heads, 2022).
    """
    config = model.language_model.config.get_text_config()
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    head_width, per_group = width // heads, heads // groups
    count = min(head_width, width // 4)
    code, copied = torch.arange(count) + width // 4, torch.arange(count) + width // 2
    for attention in _attentions(model)[COPYING_LAYERS]:
        values = attention.v_proj.weight.view(groups, head_width, width)[-1]
        values.zero_()
        values[torch.arange(count), code] = 1
        outputs = attention.o_proj.weight.view(width, heads, head_width)[:, -per_group:]
        outputs.zero_()
        outputs[copied, :, torch.arange(count)] = 1 / per_group
    words = embedding_weight(model.language_model.get_input_embeddings())
    embedding_weight(model.language_model.get_output_embeddings())[:, copied] = LOUDNESS * words[:, code]
