"""A tokenizer with the size, the special tokens and the ids of Qwen2-VL's; its words are a small vocabulary's."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from models.language.special_tokens import add_special_tokens
from models.language.tiny_language_model import CHATML_TEMPLATE

QWEN_VOCABULARY = 151643  # entries before the first special token
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
_TEXTS = (
    "system You are a helpful assistant. user assistant Where is the liver? Please output segmentation mask.",
    "Describe the findings of this chest CT in a report. Is there a pleural effusion? Yes. No. It is on the left side.",
)


def synthetic_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of ``vocabulary`` entries, most of which no text has, then the special tokens.

    With Qwen's number of entries <|image_pad|> is 151655, and CTInstruct's new tokens begin at 151657.
    """
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(_TEXTS * 4, trainer)
    model = json.loads(learned.to_str())["model"]
    words = {**model["vocab"], **{f"\x00{number}": number for number in range(len(model["vocab"]), vocabulary)}}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = CHATML_TEMPLATE
    add_special_tokens(wrapped)
    return wrapped
