"""A small sentence encoder made on the spot from the texts that it will see, for two CPU cores and no download.

Its transformer is MPNet's class with random weights, so the mean of its tokens is near to a bag of words seen through a
random projection.  All texts share most of that mean.  A dense layer, computed and not trained, takes the shared part
away and makes the rest equally strong in all directions, which leaves what tells texts apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from datasets.errors import InputError
from models.text.sentence_folder import SentenceFolder
from models.text.text_encoder import TextEncoder, pool

MAX_LENGTH = 512
_RIDGE = 0.1  # of the mean variance: keeps directions in which the texts hardly differ from being blown up
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # in MPNet's order: its padding has number 1


def build_tiny_text_encoder(
    texts: Sequence[str],
    width: int = 128,
    *,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = 2048,
    seed: int = 0,
    cache: str | Path | None = None,
) -> TextEncoder:
    """A text encoder (n texts -> (n, width)) that is a function of its arguments alone, the order of texts left aside.

    texts: those to come, or ones like them; a word that is in none of them is taken apart.

    Raises InputError for fewer than two distinct texts, which leave nothing to tell apart.
    """
    texts = sorted(set(texts))
    if len(texts) < 2:
        raise InputError("a tiny text encoder needs at least two distinct texts to be built from")
    tokenizer = _train_tokenizer(texts, vocabulary)
    config = MPNetConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=MAX_LENGTH + 2,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = MPNetModel(config, add_pooling_layer=False).eval()
    layout = SentenceFolder(Path(), max_length=MAX_LENGTH)
    layout.dense = [whitening(_token_means(transformer, tokenizer, texts)), nn.Identity()]
    return TextEncoder(transformer, tokenizer, layout, cache)


def whitening(vectors: Tensor) -> nn.Linear:
    """The layer x -> W (x - mean), W = (covariance + ridge)^(-1/2), of vectors (n, C).

    The symmetric root (ZCA; Kessy et al., Optimal Whitening and Decorrelation, 2018) does not hinge on the signs and
    the order of eigenvectors, so it is the same wherever it is computed.
    """
    vectors = vectors.double()
    mean = vectors.mean(0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)
    values, directions = torch.linalg.eigh(covariance)
    scales = (values.clamp(min=0) + _RIDGE * values.mean()).rsqrt()
    weight = (directions * scales) @ directions.T
    layer = nn.utils.skip_init(nn.Linear, *weight.shape)  # draws no random numbers
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight @ mean)
    return layer


def _train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, lower case, digits one by one: any text has tokens, and common words have one each.

    (The trainer of word pieces numbers them in an order that changes from one call to the next.)
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


@torch.no_grad()
def _token_means(transformer: MPNetModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """(n, C): what the dense layer will be given."""
    parts = []
    for start in range(0, len(texts), 64):
        tokens = tokenizer(
            texts[start : start + 64], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        parts.append(pool(transformer(**tokens).last_hidden_state, tokens["attention_mask"], "mean"))
    return torch.cat(parts)
