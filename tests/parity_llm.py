"""Parity of the language-model side: rotary positions, logits, language loss and diagnosis loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from models.language.answer_loss import answer_loss, answer_positions
from models.language.diagnosis_heads import DiagnosisHeads, positive_weights
from models.language.loading import build_language_model, token_positions
from models.masks.losses import weighted_bce
from tests.parity import TOLERANCE, Errors, exact, register, relative_error
from tests.parity_weights import rule_state_dict

IMAGE_ID, CONFIDENCE_ID = 190, 192
HEAD_NAMES = {"RadChestCT": "rad_class_heads", "CT-RATE": "ctrate_class_heads"}
BFLOAT16_SHARE = (
    0.01  # the release rounds the diagnosis loss to bfloat16; only the two losses' difference is compared so
)


def _model(folder: Path):
    """The tiny Qwen2-VL of the vectors and its diagnosis heads, with weights by rule."""
    config = Qwen2VLTextConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    weights = rule_state_dict(json.loads((folder / "llm_tiny_state_dict_shapes.json").read_text()))
    heads = DiagnosisHeads(config.hidden_size)
    for label_set, prefix in HEAD_NAMES.items():
        head = heads.heads[label_set]
        for part in ("weight", "bias"):
            rows = [weights.pop(f"{prefix}.{i}.{part}") for i in range(head.out_features)]
            getattr(head, part).copy_(torch.cat(rows))
    model = build_language_model(config).eval()
    model.load_state_dict(weights, strict=True)
    return model, heads


def _forward(model, vectors, attention_mask: torch.Tensor, grids: list[list[tuple[int, int, int]]]):
    input_ids = torch.from_numpy(vectors["input_ids"])
    image_mask = input_ids == IMAGE_ID
    embeddings = model.get_input_embeddings()(input_ids)
    embeddings = embeddings.masked_scatter(image_mask.unsqueeze(-1), torch.from_numpy(vectors["image_embeds"]))
    positions = token_positions(model.config, attention_mask, image_mask, grids)
    output = model(
        inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=positions, output_hidden_states=True
    )
    return positions, output.logits, output.hidden_states[-1]


def _token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    answers = answer_positions(labels)
    return answer_loss(logits[answers.rows, answers.columns], answers, reduction="token")


@register("llm_two_samples.npz")
def check_two_samples(file: Path) -> Errors:
    """A left-padded batch with one and with two volumes."""
    vectors = np.load(file)
    model, _ = _model(file.parent)
    mask = torch.from_numpy(vectors["attention_mask"])
    grids = [tuple(row) for row in vectors["grid"].tolist()]
    positions, logits, _ = _forward(model, vectors, mask, [grids[:1], grids[1:]])
    real = mask.bool().numpy()
    following = positions[0, :, -1] + 1 - mask.shape[1]  # what transformers adds to the index of a generated token
    loss = _token_loss(logits, torch.from_numpy(vectors["labels"]))
    return {
        "position_ids": exact(positions, vectors["position_ids"]),
        "rope_deltas": exact(following[:, None], vectors["rope_deltas"]),
        "logits": relative_error(logits.numpy()[real], vectors["logits"][real]),
        "loss": relative_error(loss, vectors["loss"], spread=1.0),
    }


@register("llm_diagnosis_*.npz")
def check_diagnosis(file: Path) -> Errors:
    """One sample with a ``<disease_confidence>`` for each disease of a label set."""
    vectors = np.load(file)
    model, heads = _model(file.parent)
    label_set = {16: "RadChestCT", 18: "CT-RATE"}[int(vectors["n_diseases"])]
    input_ids, labels = torch.from_numpy(vectors["input_ids"]), torch.from_numpy(vectors["labels"])
    grids = [[tuple(row) for row in vectors["grid"].tolist()]]
    _, logits, hidden = _forward(model, vectors, torch.ones_like(input_ids), grids)
    confidence = heads(hidden[input_ids == CONFIDENCE_ID], label_set)
    targets = torch.from_numpy(vectors["targets"]).float()
    diagnosis = float(weighted_bce(confidence, targets, positive_weights(label_set)))
    expected = float(vectors["total_loss"] - vectors["lm_loss"])
    return {
        "lm_loss": relative_error(_token_loss(logits, labels), vectors["lm_loss"], spread=1.0),
        # scaled so that 1 % of difference meets the common tolerance
        "diagnosis_loss": abs(diagnosis - expected) / expected * TOLERANCE / BFLOAT16_SHARE,
    }
