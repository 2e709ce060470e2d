"""Answers of CTInstruct: beams of tokens, and what the special tokens among them stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationMixin

from datasets.instruction import InstructionBatch
from datasets.vocabulary import diseases_of
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume


@dataclass
class Prediction:
    """One answer.

    text: with its special tokens.  token_ids: (n,).  mask_logits: (s, X, Y, Z) on the padded grid of the question's
    first volume, one for each ``<SEG>``, or None.  confidences: disease -> probability, for as many diseases as the
    answer has ``<disease_confidence>`` tokens.
    """

    text: str
    token_ids: Tensor
    mask_logits: Tensor | None
    confidences: dict[str, float]


@torch.inference_mode()
def generate(
    model: CTInstruct,
    batch: InstructionBatch,
    num_beams: int = 5,
    max_new_tokens: int = 4096,
    encoded: list[list[EncodedVolume]] | None = None,
) -> list[Prediction]:
    """Answer each question of a batch without answers, by its best beam.

    Each volume is encoded once, for the text and for every mask.  Beams run on a key-value cache; the hidden states
    of special tokens come from one pass over the chosen sequences, and only where they have any.

    Args:
        encoded: the batch's volumes where they are encoded already, a list a row.
    """
    if encoded is None:
        encoded = model.encode(batch)
    embeddings, positions = model.embed(batch, encoded)
    language_model = cast(GenerationMixin, model.language_model)  # of peft's adapted models, the model inside
    sequences = language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        position_ids=positions,
        num_beams=num_beams,
        num_return_sequences=1,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=model.tokenizer.eos_token_id,
    )
    hidden = _answer_hidden(model, sequences, embeddings, positions, batch.attention_mask)
    return [_prediction(model, row, sequences[row], hidden, batch, encoded[row]) for row in range(len(encoded))]


def _answer_hidden(
    model: CTInstruct, sequences: Tensor, embeddings: Tensor, positions: Tensor, attention_mask: Tensor
) -> Tensor | None:
    """Hidden states (B, n, hidden) of generated tokens (B, n), or None where no row has a special one."""
    special = (sequences == model.segmentation_id) | (sequences == model.confidence_id)
    if not special.any():
        return None
    answers = model.language_model.get_input_embeddings()(sequences).to(embeddings.dtype)
    length = sequences.shape[1]
    steps = torch.arange(1, length + 1, device=positions.device)
    output = model.language_model(
        inputs_embeds=torch.cat([embeddings, answers], dim=1),
        attention_mask=torch.cat([attention_mask, torch.ones_like(sequences)], dim=1),
        position_ids=torch.cat([positions, positions[..., -1:] + steps], dim=-1),
        output_hidden_states=True,
        logits_to_keep=1,
        use_cache=False,
    )
    return output.hidden_states[-1][:, -length:]


def _before_end(sequence: Tensor, end: int) -> Tensor:
    ends = (sequence == end).nonzero()
    return sequence[: int(ends[0])] if len(ends) else sequence


def _prediction(
    model: CTInstruct,
    row: int,
    sequence: Tensor,
    hidden: Tensor | None,
    batch: InstructionBatch,
    volumes: Sequence[EncodedVolume],
) -> Prediction:
    token_ids = _before_end(sequence, model.tokenizer.eos_token_id)
    text = str(model.tokenizer.decode(token_ids, skip_special_tokens=False)).strip()
    if hidden is None:
        return Prediction(text, token_ids, None, {})
    states = hidden[row][: len(token_ids)]
    segmentation, confidence = token_ids == model.segmentation_id, token_ids == model.confidence_id
    confidences: dict[str, float] = {}
    label_set = batch.label_sets[row]
    if confidence.any() and label_set is not None:
        diseases = diseases_of(label_set)
        probabilities = model.diagnosis_heads(states[confidence][: len(diseases)], label_set).float().sigmoid()
        confidences = dict(zip(diseases, probabilities.tolist(), strict=False))
    masks = None
    if segmentation.any() and volumes:
        masks = model.vision.decode_masks(volumes[batch.mask_images[row]], states[segmentation])
    return Prediction(text, token_ids, masks, confidences)
