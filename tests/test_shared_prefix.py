"""Rows that share a prefix: states, losses and gradients are those of separate rows."""

from __future__ import annotations

import pytest
import torch

from models.checkpoint import build_ctinstruct
from models.language_model import can_share_prefix
from models.shared_prefix import shared_prefix
from tests.test_any_language_model import FAMILIES, random_model
from tests.tiny_model import VISION, collate, make_sample, tiny_ctinstruct, tiny_tokenizer

IMAGE, PAD = 7, 0
ROWS = [  # three questions about one volume, one about another, one about none
    [1, IMAGE, IMAGE, 2, 3],
    [1, IMAGE, IMAGE, 2, 4, 5, 6],
    [1, IMAGE, IMAGE, 3],
    [1, IMAGE, 2],
    [8, 9],
]


def batch_of(rows, left=8):
    ids = torch.tensor([[PAD] * (left - len(row)) + row for row in rows])
    return ids, (ids != PAD).long(), ids == IMAGE


def visible_places(layout, shape) -> torch.Tensor:
    """(G, K, G * K) bool: what each packed place looks at."""
    rows = []
    for block in layout.blocks:
        assert block.mask.any(-1).all(), "each query sees something, so no NaN"
        seen = torch.zeros(*block.queries.shape, shape.numel(), dtype=torch.bool)
        for part, place, key in block.mask[:, 0].nonzero().tolist():
            seen[part, place, block.keys[part, key]] = True
        rows.append(seen.flatten(0, 1))
    return torch.cat(rows)[layout.order].view(*shape, -1)


def test_a_packed_token_sees_what_it_saw_in_its_row() -> None:
    ids, attention, images = batch_of(ROWS)
    shared = shared_prefix(ids, attention, images, [0, 0, 0, 3, 4])
    packed = shared.pack(ids)
    visible = visible_places(shared.layout, packed.shape)
    assert packed.shape == (3, 3 + 2 + 4 + 1), "the beginning of three tokens once, and what differs"
    for row, tokens in enumerate(ROWS):
        for offset, token in enumerate(tokens):
            place = 8 - len(tokens) + offset
            group, column = shared.group[row, place], shared.column[row, place]
            assert packed[group, column] == token
            assert packed.flatten()[visible[group, column]].tolist() == tokens[: offset + 1]
    assert torch.equal(shared.unpack(packed)[attention.bool()], ids[attention.bool()])


@pytest.mark.parametrize(
    ("rows", "volumes_of"),
    [
        ([ROWS[0], ROWS[3]], [0, 1]),  # other volumes
        ([ROWS[4], ROWS[4]], [0, 1]),  # no volumes
        ([[1, 2, IMAGE, 4], [2, 1, IMAGE, 4]], [0, 0]),  # the text before the volume differs
    ],
)
def test_rows_that_cannot_share_are_left_alone(rows, volumes_of) -> None:
    assert shared_prefix(*batch_of(rows), volumes_of) is None


def test_a_row_keeps_a_token_of_its_own_where_all_agree() -> None:
    ids, attention, images = batch_of([ROWS[0], ROWS[0]])
    assert shared_prefix(ids, attention, images, [0, 0]).pack(ids).tolist() == [[1, IMAGE, IMAGE, 2, 3, 3]]


def qwen2_vl():
    return tiny_ctinstruct()


def family(name):
    def build():
        tokenizer = tiny_tokenizer()
        return build_ctinstruct(VISION, random_model(name, tokenizer, len(tokenizer)), tokenizer)

    return build


@pytest.mark.parametrize("build", [qwen2_vl, *map(family, FAMILIES)], ids=["Qwen2-VL", *FAMILIES])
def test_losses_and_gradients_are_those_of_separate_rows(build) -> None:
    model = build().eval()
    assert can_share_prefix(model.language_model.config.get_text_config())
    kinds = ["segmentation", "open_vqa", "diagnosis", "two_volumes", "two_structures", "text_only", "yes_no"]
    samples = [make_sample(kind, model.tokenizer, 4 + (number > 4)) for number, kind in enumerate(kinds)]
    for sample in (samples[1], samples[2], samples[4]):
        sample.volumes, sample.prompt_ids = samples[0].volumes, samples[0].prompt_ids
    batch = collate(samples, model.tokenizer)
    found = []
    for share in (False, True):
        model.zero_grad()
        model.share_prefix = share
        output = model(batch)
        output.loss.backward()
        found.append((output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, plain_gradients), (shared, shared_gradients) = found
    assert shared.metrics.keys() == plain.metrics.keys() and shared_gradients.keys() == plain_gradients.keys()
    for name, value in plain.metrics.items():
        assert shared.metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name, value in plain_gradients.items():
        assert torch.allclose(shared_gradients[name], value, atol=2e-5 + 1e-3 * float(value.abs().max())), name


def test_the_volume_is_read_once(monkeypatch) -> None:
    model = qwen2_vl()
    model.share_prefix = True
    samples = [make_sample(kind, model.tokenizer, 4) for kind in ("open_vqa", "yes_no", "diagnosis")]
    for sample in samples[1:]:
        sample.volumes = samples[0].volumes
    forward, read = model.language_model.forward, []
    monkeypatch.setattr(
        model.language_model,
        "forward",
        lambda **inputs: read.append(inputs["inputs_embeds"].shape[:2]) or forward(**inputs),
    )
    batch = collate(samples, model.tokenizer)
    model(batch)
    tokens, images = int(batch.attention_mask.sum()), int((batch.input_ids == model.image_id).sum()) // 3
    assert read[0][0] == 1 and read[0][1] < tokens - 2 * images
