"""Stages of the language model: prefill and decoding, beside transformers' own `generate` on the same model."""

from __future__ import annotations

from functools import partial

import torch
from transformers import GenerationMixin

from benchmarks.measure import Aim, Row, best_seconds, device, measured, peak_gib, precision
from datasets.instruction import InstructionBatch, InstructionCollator, InstructionSample
from datasets.vocabulary import IMAGE
from models.checkpoints.folder import build_ctinstruct
from models.configuration import vision_preset
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer

TEXTS = ["The liver is of normal size. No pleural effusion is seen. Is there a lung nodule in the right upper lobe?"]
SIZES = {  # hidden size, layers, heads, feed-forward width
    "tiny": {},
    "small": {"hidden_size": 384, "layers": 8, "heads": 6, "feedforward": 1536},
    "135M": {"hidden_size": 576, "layers": 30, "heads": 8, "feedforward": 1536},
    "2B": {"hidden_size": 1536, "layers": 28, "heads": 12, "feedforward": 8960},
}


def model_of(size: str) -> CTInstruct:
    """The tiny vision model before a random language model of the size."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS)
    language_model = build_tiny_language_model(tokenizer, **SIZES[size])
    return build_ctinstruct(vision_preset("tiny"), language_model, tokenizer).to(device(), precision()).eval()


def prompt_of(model: CTInstruct) -> InstructionBatch:
    """A prompt of text alone, so that what is compared is generation and nothing else; no answer may stop early."""
    tokenizer = model.tokenizer
    prompt = (tokenizer(TEXTS[0] * 8)["input_ids"])[:256]
    assert tokenizer.convert_tokens_to_ids(IMAGE) not in prompt
    sample = InstructionSample(
        id="prompt",
        task="text",
        prompt_ids=prompt,
        answer_ids=[],
        volumes=[],
        geometries=[],
        label_set=None,
        mask_image=0,
    )
    tokenizer.eos_token = tokenizer.pad_token
    return InstructionCollator(tokenizer.pad_token_id)([sample]).to(device())


def generation(size: str, new_tokens: int) -> tuple[list[Row], list[Aim]]:
    """Prefill, and decoding beside transformers' own."""
    model = model_of(size)
    language_model, tokenizer = model.language_model, model.tokenizer
    assert isinstance(language_model, GenerationMixin)
    batch = prompt_of(model)

    def plain() -> None:
        language_model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            num_beams=1,
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    with torch.inference_mode():
        prefill = partial(
            language_model, input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=1
        )
        rows = [measured(f"prefill of {batch.input_ids.shape[1]} tokens, {size}", prefill)]
        ours = best_seconds(lambda: generate(model, batch, 1, new_tokens), repeats=2)
        theirs = best_seconds(plain, repeats=2)
        generated = len(generate(model, batch, 1, new_tokens)[0].token_ids)
    row = Row(f"decode {new_tokens} tokens, {size}", ours, peak_gib=peak_gib())
    row.note = f"{generated / ours:.0f} tokens/s; transformers' generate {new_tokens / theirs:.0f}"
    rows.append(row)
    ratio = (new_tokens / theirs) / max(generated / ours, 1e-9)
    return rows, [Aim(f"time of a generated token over transformers' own, {size}", ratio, 1.3)]
