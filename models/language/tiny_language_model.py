"""A small language model of Qwen2-VL's class with a tokenizer learned on the spot, for two CPU cores and no download.

It runs each line that a 7B model runs: 3D rotary positions, grouped key-value heads, ChatML, added tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from models.language.loading import build_language_model, resize_embeddings
from models.language.special_tokens import add_special_tokens

INITIAL_WEIGHTS = 0.06  # standard deviation; transformers' 0.02 suits widths of thousands
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer (any text round-trips) of at most ``vocabulary`` entries, with all special tokens.

    Digits are split one by one so that sizes and counts share their tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = CHATML_TEMPLATE
    add_special_tokens(wrapped)
    return wrapped


def build_tiny_language_model(
    tokenizer: PreTrainedTokenizerBase, hidden_size: int = 128, layers: int = 4, heads: int = 4, feedforward: int = 384
) -> PreTrainedModel:
    """A randomly initialised Qwen2-VL text decoder whose vocabulary is the tokenizer's."""
    half_head = hidden_size // heads // 2
    section = [half_head - 2 * (3 * half_head // 8), 3 * half_head // 8, 3 * half_head // 8]
    config = Qwen2VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=feedforward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        initializer_range=INITIAL_WEIGHTS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.tie_word_embeddings = False
    model = build_language_model(config)
    resize_embeddings(model, tokenizer)
    return model
