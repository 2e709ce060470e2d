"""Rotary positions that the collator makes are those that the model makes, and spare its forward pass the reading."""

from __future__ import annotations

import pickle

import pytest
import torch

from datasets.instruction import InstructionBatch, InstructionCollator
from models.ctinstruct import CTInstruct
from models.language.loading import uses_3d_positions
from tests.tiny_model import ANSWERS, collate, extended, make_sample, tiny_ctinstruct
from tests.waits import Reads


@pytest.fixture(scope="module")
def model() -> CTInstruct:
    model = tiny_ctinstruct().eval()
    assert uses_3d_positions(model.language_model.config.get_text_config())
    return model


def both(model: CTInstruct) -> tuple[InstructionBatch, InstructionBatch]:
    """Samples of every kind, two of which are about one volume: a batch without positions, and one with them."""
    samples = [make_sample(kind, model.tokenizer, max(0, row - 1)) for row, kind in enumerate(ANSWERS)]
    samples[1].volumes, samples[1].volume_keys = samples[0].volumes, samples[0].volume_keys
    collator = pickle.loads(pickle.dumps(InstructionCollator(model.tokenizer.pad_token_id, model.position_rule)))
    return collate(samples, model.tokenizer), collator(samples)


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_the_collators_positions_are_the_models(model: CTInstruct, shared: bool) -> None:
    user = extended(model, share_volumes=True) if shared else model
    plain, given = both(model)
    assert plain.positions is None and given.positions is not None
    assert torch.equal(given.positions, user.positions(plain, user.encode(plain)))
    assert torch.equal(user(given).loss, user(plain).loss)
    assert given.to("meta").positions.is_meta


@torch.no_grad()
def test_the_forward_pass_reads_less_from_the_device(model: CTInstruct) -> None:
    """Without them at least the two masks of each row are fetched, and each run of text is looked for."""
    counts = []
    for batch in both(model):
        with Reads() as reads:
            model(batch)
        counts.append(reads.count)
    assert counts[1] <= counts[0] - 2 * len(ANSWERS)
