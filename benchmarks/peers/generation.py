"""Answers in words: transformers' own Qwen2-VL and its `generate`, and this project's, of the same random weights.

The prompt is of text alone, so that nothing but the language model is compared.  Both searches end at so many tokens,
and take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from benchmarks.measure import device, now
from benchmarks.peers.rows import PeerRow
from benchmarks.same_tokens import agreement
from benchmarks.stages_language import TEXTS, model_of
from datasets.instruction import InstructionBatch, InstructionCollator, InstructionSample
from models.ctinstruct import CTInstruct
from models.generation import generate

SEARCHES = {"greedy": 1, "5 beams": 5}
PROMPT_TOKENS = 1000
TOKENS, QUICK_TOKENS = 32, 16
REPEATS, QUICK_REPEATS = 2, 1
UNUSED_TOWER: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 1}  # the smallest; never run


def transformers_own(model: CTInstruct) -> Qwen2VLForConditionalGeneration:
    """transformers' Qwen2-VL with a copy of the weights of our language model, which has its decoder alone.

    Raises RuntimeError where a weight has no place, and where one of the decoder is not given.
    """
    language_model = model.language_model
    config = language_model.config.to_dict()
    tower = {**UNUSED_TOWER, "hidden_size": config["hidden_size"]}
    peer_config = Qwen2VLConfig(text_config=config, vision_config=tower)
    peer_config.tie_word_embeddings = config["tie_word_embeddings"]
    peer = Qwen2VLForConditionalGeneration(peer_config)
    weights = {
        f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name: value
        for name, value in language_model.state_dict().items()
    }
    result = peer.load_state_dict(weights, strict=False)
    amiss = [*result.unexpected_keys, *(name for name in result.missing_keys if not name.startswith("model.visual."))]
    if amiss:
        raise RuntimeError(f"transformers' Qwen2-VL names its weights otherwise: {', '.join(amiss[:3])}")
    weight = next(language_model.parameters())
    module: nn.Module = peer  # whose `to` is typed as torch's
    module.to(weight.device, weight.dtype).eval()
    return peer


def question(model: CTInstruct, tokens: int) -> InstructionBatch:
    """A batch of one prompt of words alone."""
    words = model.tokenizer(TEXTS[0])["input_ids"]
    prompt = (words * (tokens // len(words) + 1))[:tokens]
    sample = InstructionSample(id="prompt", task="open_vqa", prompt_ids=prompt, answer_ids=[], volumes=[])
    return InstructionCollator(model.tokenizer.pad_token_id)([sample]).to(device())


def their_answer(
    peer: Qwen2VLForConditionalGeneration, batch: InstructionBatch, beams: int, tokens: int, end: int
) -> Tensor:
    """Tokens (n,) of transformers' search, without the token `end` and what follows it."""
    found = peer.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=end,
        eos_token_id=end,
    )[0, batch.input_ids.shape[1] :].cpu()
    return found[: int((found == end).int().argmax())] if (found == end).any() else found


def our_answer(model: CTInstruct, batch: InstructionBatch, beams: int, tokens: int) -> Tensor:
    """Tokens (n,) of this project's search."""
    return generate(model, batch, beams, tokens)[0].token_ids.cpu()


@torch.inference_mode()
def generation_rows(size: str, quick: bool, prompt: int = PROMPT_TOKENS) -> list[PeerRow]:
    """Both sides, greedy and with beams, of a size of `stages_language.SIZES`."""
    tokens, repeats = (QUICK_TOKENS, QUICK_REPEATS) if quick else (TOKENS, REPEATS)
    model = model_of(size)
    peer, batch = transformers_own(model), question(model, prompt)
    model.tokenizer.eos_token = model.tokenizer.pad_token  # which no answer of random weights ends with
    end = model.tokenizer.eos_token_id
    rows = []
    for search, beams in SEARCHES.items():
        sides = {
            "transformers": lambda count, beams=beams: their_answer(peer, batch, beams, count, end),
            "ours": lambda count, beams=beams: our_answer(model, batch, beams, count),
        }
        first = {name: float("inf") for name in sides}
        whole, answers = dict(first), {}
        for answer in sides.values():  # a first call has more to do
            answer(1)
        for _ in range(repeats):
            for name, answer in sides.items():
                for seconds, count in ((first, 1), (whole, tokens)):
                    begun = now()
                    answers[name] = answer(count)
                    seconds[name] = min(seconds[name], now() - begun)
        same = agreement(answers["ours"].tolist(), answers["transformers"].tolist())
        for name in sides:
            rate = (len(answers[name]) - 1) / max(whole[name] - first[name], 1e-9)
            figures = {"first_token": first[name], "tokens_a_second": rate}
            note = f"prompt of {prompt} tokens, answer of {tokens}" if name != "ours" else same
            rows.append(PeerRow(f"{size}, {search}", f"{name}, {search}, {size}", name == "ours", figures, note))
    return rows
