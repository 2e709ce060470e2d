"""Attention of one query in bf16: nearer to exact attention than bf16, and only where it is meant for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.generation import generate
from models.language.step_attention import NAME, attend
from tests.tiny_model import collate, make_sample, tiny_ctinstruct


def by_hand(query, key, value, seen):
    """In float64, head by head: softmax of scaled products over the keys that are seen."""
    groups = query.shape[1] // key.shape[1]
    rows = []
    for head in range(query.shape[1]):
        keys, values = (states[0, head // groups].double() for states in (key, value))
        scores = keys @ query[0, head, 0].double() / query.shape[-1] ** 0.5
        weights = torch.exp(scores - scores.max()) * seen
        rows.append(weights / weights.sum() @ values)
    return torch.stack(rows)


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@torch.inference_mode()
def test_one_query_is_exact_up_to_the_rounding_of_the_result(mask):
    torch.manual_seed(0)
    module = nn.Module()
    module.num_key_value_groups = 2
    query, key, value = (torch.randn(1, heads, n, 32).bfloat16() for heads, n in ((4, 1), (2, 50), (2, 50)))
    seen = torch.arange(50) >= (0 if mask == "none" else 20)
    masks = {"none": None, "bool": seen[None, None, None], "float": torch.zeros(50).masked_fill(~seen, -1e9).bfloat16()}
    given = masks[mask][None, None, None] if mask == "float" else masks[mask]
    found, _ = attend(module, query, key, value, given, scaling=32**-0.5)
    assert found.shape == (1, 1, 4, 32) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found[0, 0].double(), by_hand(query, key, value, seen), rtol=2**-8, atol=1e-6)


@torch.inference_mode()
def test_float32_and_longer_queries_are_transformers_own(monkeypatch):
    given = []

    def record(module, query, *others, **options):
        given.append(query.dtype)
        return query.transpose(1, 2), None

    monkeypatch.setattr("models.language.step_attention.sdpa_attention_forward", record)
    for dtype, n in ((torch.float32, 1), (torch.bfloat16, 3), (torch.bfloat16, 1)):
        states = torch.zeros(1, 2, n, 8, dtype=dtype)
        attend(nn.Module(), states, states, states, None)
    assert given == [torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "sdpa"), (torch.bfloat16, NAME)])
def test_a_search_in_bf16_takes_it_and_one_in_float32_does_not(dtype, name):
    model = tiny_ctinstruct().eval().to(dtype)
    batch = collate([make_sample("open_vqa", model.tokenizer, answered=False)], model.tokenizer)
    (found,) = generate(model, batch, num_beams=2, max_new_tokens=4)
    assert model.language_model.config.get_text_config()._attn_implementation == name
    assert 0 < len(found.token_ids) <= 4
