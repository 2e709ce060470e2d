"""Answers of CTInstruct: how their tokens are searched for, and what the special tokens among them stand for."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.streamers import BaseStreamer

from datasets.instruction import InstructionBatch
from datasets.vocabulary import diseases_of
from models.compiled_steps import compiled_steps
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume
from models.language.step_attention import use_step_attention
from models.prompt_cache import Prompt, can_read_ahead, read_ahead, read_on
from models.prompt_prefixes import HeldPrefixes

log = logging.getLogger(__name__)
SearchProtocol = Literal["beams", "release"]
# Of the release, for tasks that are answered in words; the others have the checkpoint's own settings alone.
RELEASE_TEXT_SEARCH = {"top_k": 50, "temperature": 0.7}
TASKS_WITHOUT_BEAMS = ("diagnosis", "segmentation")


@dataclass
class Prediction:
    """One answer.

    text: with its special tokens.  token_ids: (n,).  mask_logits: (s, X, Y, Z) on the padded grid of the question's
    first volume, one for each ``<SEG>``, or None.  confidences: disease -> probability.  An answer with one
    ``<disease_confidence>`` a disease gives them in head order.  One with another number gives the released protocol
    the first diseases, as the release pairs them; ours only those that are named right before their token.
    """

    text: str
    token_ids: Tensor
    mask_logits: Tensor | None
    confidences: dict[str, float]


def generation_config(model: CTInstruct) -> GenerationConfig:
    """The checkpoint's own settings of how answers are searched for."""
    return cast(GenerationConfig, model.language_model.generation_config)


def search_settings(protocol: SearchProtocol, task: str, config: GenerationConfig, num_beams: int) -> dict[str, Any]:
    """What a question of a task adds to the checkpoint's generation_config, as options of transformers' ``generate``.

    beams: the best of ``num_beams``, for every task, and never sampled.
    release: as the published evaluator does it.  Text has ``num_beams`` beams, and top_k 50 and temperature 0.7 where
    the generation_config samples; diagnosis and segmentation have the generation_config as it is.
    """
    if protocol == "beams":
        return {"num_beams": num_beams, "do_sample": False}
    if task in TASKS_WITHOUT_BEAMS:
        return {}
    return {"num_beams": num_beams, **(RELEASE_TEXT_SEARCH if config.do_sample else {})}


def is_sampled(search: dict[str, Any], config: GenerationConfig) -> bool:
    """Whether tokens are drawn at random: not where one candidate is left to draw from."""
    return bool(search.get("do_sample", config.do_sample)) and search.get("top_k", config.top_k) != 1


@torch.inference_mode()
def generate(
    model: CTInstruct,
    batch: InstructionBatch,
    num_beams: int = 5,
    max_new_tokens: int = 4096,
    encoded: list[list[EncodedVolume]] | None = None,
    protocol: SearchProtocol = "beams",
    seed: int = 0,
    streamer: BaseStreamer | None = None,
    prefixes: HeldPrefixes | None = None,
) -> list[Prediction]:
    """Answer each question of a batch without answers.

    Each volume is encoded once, for the text and for every mask.  A prompt is read once for all of its beams, which run
    on copies of its keys and values; the hidden states of special tokens come from one pass over the chosen sequences,
    which goes on from the same keys and values, and only where they have any.

    Args:
        num_beams, protocol: see `search_settings`.
        encoded: the batch's volumes where they are encoded already, a list a row.
        seed: with the samples' ids, of what is drawn where answers are sampled: the same question in the same company
            has the same answer, whatever was asked before it.
        streamer: is given each token of a batch of one as it is found; transformers allows that without beams alone.
        prefixes: what was read of earlier prompts about the same encodings, which is not read again, and of these for
            later ones; only for a language model that can share them (`models.extensions.shared_prefix`).
    Raises:
        ValueError: the batch's tasks are searched for in different ways.
    """
    config = generation_config(model)
    search, *others = (search_settings(protocol, task, config, num_beams) for task in batch.tasks)
    if any(other != search for other in others):
        raise ValueError(f"a batch of {', '.join(sorted(set(batch.tasks)))} is not searched for in one way")
    if encoded is None:
        encoded = model.encode(batch)
    use_step_attention(model.language_model)
    beams = search.get("num_beams", config.num_beams) or 1
    can_share = can_read_ahead(model.language_model)
    if prefixes is not None and can_share:
        prompt = prefixes.prompt(model, batch, encoded)
    else:
        prompt = Prompt(*model.input_embeddings(batch, encoded), batch.attention_mask)
    steps = compiled_steps(model.language_model)
    if can_share and (beams > 1 or steps is not None):
        prompt = read_ahead(model.language_model, prompt)
    ends = end_tokens(model, protocol)
    language_model = cast(GenerationMixin, model.language_model)  # of peft's adapted models, the model inside
    devices = [prompt.embeddings.device] if prompt.embeddings.device.type == "cuda" else []
    inputs = nullcontext(prompt.search_inputs(beams)) if steps is None else steps.search_inputs(prompt, beams)
    with torch.random.fork_rng(devices, enabled=is_sampled(search, config)), inputs as given:
        if is_sampled(search, config):
            torch.manual_seed(zlib.crc32(" ".join([str(seed), *batch.sample_ids]).encode()))
        sequences = language_model.generate(
            **given,
            num_return_sequences=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=model.tokenizer.pad_token_id,
            eos_token_id=ends,
            streamer=streamer,
            return_dict_in_generate=False,  # whatever a model's files say
            output_hidden_states=False,
            output_attentions=False,
            **search,
        )
    hidden = _answer_hidden(model, sequences, prompt)
    return [
        _prediction(model, row, _before_end(sequences[row], ends), hidden, batch, encoded[row], protocol)
        for row in range(len(encoded))
    ]


def end_tokens(model: CTInstruct, protocol: SearchProtocol) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and in the release those of the generation_config, if it has
    any."""
    ends = generation_config(model).eos_token_id if protocol == "release" else None
    if ends is None:
        return [model.tokenizer.eos_token_id]
    return [ends] if isinstance(ends, int) else list(ends)


def _answer_hidden(model: CTInstruct, sequences: Tensor, prompt: Prompt) -> Tensor | None:
    """Hidden states (B, n, hidden) of generated tokens (B, n), or None where no row has a special one."""
    special = (sequences == model.segmentation_id) | (sequences == model.confidence_id)
    if not special.any():
        return None
    answers = model.language_model.get_input_embeddings()(sequences).to(prompt.embeddings.dtype)
    length, begin = sequences.shape[1], prompt.columns_read
    steps = torch.arange(1, length + 1, device=prompt.positions.device)
    output = read_on(
        model.language_model,
        torch.cat([prompt.embeddings[:, begin:], answers], dim=1),
        torch.cat([prompt.positions[..., begin:], prompt.positions[..., -1:] + steps], dim=-1),
        torch.cat([prompt.attention_mask, torch.ones_like(sequences)], dim=1),
        prompt.cache,
        output_hidden_states=True,
        logits_to_keep=1,
    )
    return output.hidden_states[-1][:, -length:]


def _before_end(sequence: Tensor, ends: Sequence[int]) -> Tensor:
    places = torch.isin(sequence, torch.tensor(ends, device=sequence.device)).nonzero()
    return sequence[: int(places[0])] if len(places) else sequence


def _prediction(
    model: CTInstruct,
    row: int,
    token_ids: Tensor,
    hidden: Tensor | None,
    batch: InstructionBatch,
    volumes: Sequence[EncodedVolume],
    protocol: SearchProtocol,
) -> Prediction:
    text = str(model.tokenizer.decode(token_ids, skip_special_tokens=False)).strip()
    if hidden is None:
        return Prediction(text, token_ids, None, {})
    states = hidden[row][: len(token_ids)]
    segmentation, confidence = token_ids == model.segmentation_id, token_ids == model.confidence_id
    confidences: dict[str, float] = {}
    label_set = batch.label_sets[row]
    if confidence.any() and label_set is not None:
        places = confidence.nonzero()[:, 0].tolist()
        read_by = _diseases_of_tokens(model, token_ids, places, diseases_of(label_set), protocol)
        if len(places) != len(diseases_of(label_set)):
            log.warning(
                "%s: %d <disease_confidence> for %d diseases of %s; %d are paired %s",
                batch.sample_ids[row], len(places), len(diseases_of(label_set)), label_set, len(read_by),
                "by position, as the release does" if protocol == "release" else "with the disease named before them",
            )  # fmt: skip
        for disease, place in read_by.items():
            logit = model.diagnosis_heads.of_disease(states[place], disease, label_set)
            confidences[disease] = float(logit.sigmoid())
    masks = None
    if segmentation.any() and volumes:
        masks = model.vision.decode_masks(volumes[batch.mask_images[row]], states[segmentation])
    return Prediction(text, token_ids, masks, confidences)


def _diseases_of_tokens(
    model: CTInstruct, token_ids: Tensor, places: Sequence[int], diseases: Sequence[str], protocol: SearchProtocol
) -> dict[str, int]:
    """The place of the token that is read for each disease, see `Prediction`."""
    if len(places) == len(diseases) or protocol == "release":
        return dict(zip(diseases, places, strict=False))
    found: dict[str, int] = {}
    start = 0
    for place in places:
        words = str(model.tokenizer.decode(token_ids[start:place])).lower()
        named = max(diseases, key=lambda disease: (words.rfind(disease.lower()), len(disease)))
        if named.lower() in words:
            found.setdefault(named, place)
        start = place + 1
    return found
