"""Prompts that are read once: five beams beside the reading of one prompt, ten questions about a volume beside apart,
one by one and as one batch.

The volume is encoded before the clock runs; what is compared is the language model's part alone.
"""

from __future__ import annotations

import torch
from transformers import GenerationMixin

from benchmarks.measure import Aim, Row, best_seconds, device, peak_gib, precision
from benchmarks.stages_language import TEXTS, model_of
from datasets.instruction import InstructionCollator, InstructionSample
from datasets.volume.anyres import patchify
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.prompt_prefixes import HeldPrefixes

BEAMS = 5
QUESTIONS = 10
PATCHES = 21  # of 48 visual tokens each


def questions(model: CTInstruct) -> list[InstructionSample]:
    """Questions of different lengths about one volume."""
    crop = model.config.crop_size
    volume = patchify(torch.randn(1, *crop[:2], crop[2] * PATCHES), crop, PATCHES)
    count = torch.Size(model.config.token_grid(volume.patch_grid, volume.patches.shape[-1])).numel()
    image, words = model.image_id, model.tokenizer(TEXTS[0])["input_ids"]
    return [
        InstructionSample(
            id=f"question {number}",
            task="open_vqa",
            prompt_ids=[*words[:4], *[image] * count, *words[: 12 + number]],
            answer_ids=[],
            volumes=[volume],
            volume_keys=["volume"],
        )
        for number in range(QUESTIONS)
    ]


def read_once(size: str, new_tokens: int) -> tuple[list[Row], list[Aim]]:
    """Beams and questions of a random language model of a size (`stages_language.SIZES`)."""
    model = model_of(size)
    collate, asked = InstructionCollator(model.tokenizer.pad_token_id), questions(model)
    batches, all_at_once = [collate([one]).to(device()) for one in asked], collate(asked).to(device())
    model.tokenizer.eos_token = model.tokenizer.pad_token  # no answer may stop early
    with torch.inference_mode():
        encoded = model.encode(batches[0])
        embeddings, positions = model.input_embeddings(batches[0], encoded)
        given = {
            "inputs_embeds": embeddings.to(precision()),
            "position_ids": positions,
            "attention_mask": batches[0].attention_mask,
        }
        visual = int((batches[0].input_ids == model.image_id).sum())

        def prefill() -> None:
            model.language_model(**given, logits_to_keep=1, use_cache=True)

        def beams() -> None:
            generate(model, batches[0], BEAMS, 1, encoded)

        def beams_that_read_each() -> None:
            assert isinstance(model.language_model, GenerationMixin)
            options = {"num_beams": BEAMS, "do_sample": False, "max_new_tokens": 1}
            model.language_model.generate(**given, **options, pad_token_id=model.tokenizer.pad_token_id)

        def ask(shared: bool) -> None:
            held = HeldPrefixes() if shared else None
            for batch in batches:
                generate(model, batch, 1, new_tokens, encoded, prefixes=held)

        def ask_at_once() -> None:
            generate(model, all_at_once, 1, new_tokens, encoded * QUESTIONS, prefixes=HeldPrefixes())

        one, five, each = (best_seconds(run, 2) for run in (prefill, beams, beams_that_read_each))
        together, apart = best_seconds(lambda: ask(True), 2), best_seconds(lambda: ask(False), 2)
        at_once = best_seconds(ask_at_once, 2)
    length = embeddings.shape[1]
    rows = [
        Row(f"prefill of {length} tokens with {visual} visual ones, {size}", one),
        Row(f"{BEAMS} beams to their first token, {size}", five, note=f"{each:.2f} s when each beam reads the prompt"),
        Row(
            f"{QUESTIONS} questions on one volume, {new_tokens} tokens each, {size}",
            together,
            peak_gib=peak_gib(),
            note=f"{apart:.2f} s when each reads the volume's tokens",
        ),
        Row(f"the same as one batch, {size}", at_once, peak_gib=peak_gib()),
    ]
    return rows, [
        Aim(f"{BEAMS} beams, of the prefill of one prompt, {size}", five / one, 1.3),
        Aim(f"{QUESTIONS} questions on one volume, faster than apart, {size}", apart / at_once, 4, at_least=True),
    ]
