"""A folder with a Qwen2-VL language model of random weights, for what needs its shapes and not what it has learned."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from benchmarks.gpu.scale import Scale
from benchmarks.measure import device
from benchmarks.synthetic_tokenizer import QWEN_VOCABULARY, synthetic_tokenizer
from models.language.loading import build_language_model

_SPECIAL = 128  # entries that a vocabulary is padded by, past its tokenizer's


def language_folder(work: Path, scale: Scale) -> Path:
    """The folder, written at its first use: config.json, bf16 weights and a tokenizer of as many entries."""
    folder = work / "language_model"
    if (folder / "config.json").is_file():
        return folder
    tokenizer = synthetic_tokenizer(min(QWEN_VOCABULARY, scale.language["vocab_size"] - _SPECIAL))
    config = Qwen2VLTextConfig(
        **scale.language,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.tie_word_embeddings = scale.language["tie_word_embeddings"]
    torch.manual_seed(0)
    with device():  # a billion random numbers are soonest drawn there
        model = build_language_model(config).bfloat16()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
