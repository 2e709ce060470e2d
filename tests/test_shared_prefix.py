"""Rows that share a prefix: states, losses and gradients are those of separate rows."""

from __future__ import annotations

import pytest
import torch

from models.checkpoints.folder import build_ctinstruct, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.extensions.packed_attention import NAME, attend_packed
from models.extensions.shared_prefix import can_share_prefix, shared_prefix
from models.generation import generate
from models.language.lora import LoraSettings, add_lora
from models.language.qwen_text import QWEN_TEXT_CLASSES
from models.parameters import freeze_unused
from tests.test_any_language_model import FAMILIES, random_model
from tests.test_qwen_families import FAMILIES as QWEN_FAMILIES
from tests.test_qwen_families import whole_model
from tests.tiny_model import VISION, collate, extended, make_sample, tiny_ctinstruct, tiny_tokenizer

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
        seen = torch.zeros(*block.queries.shape, shape.numel(), dtype=torch.int)
        for part, place, key in block.mask[:, 0].nonzero().tolist():
            seen[part, place, block.keys[part, key]] += 1
        rows.append(seen.flatten(0, 1))
    visits = torch.cat(rows)[layout.order].view(*shape, -1)
    assert visits.max() == 1, "no key counts twice"
    return visits.bool()


def test_a_packed_token_sees_what_it_saw_in_its_row() -> None:
    rows = [*ROWS, *([1, 2, 5, IMAGE, IMAGE, IMAGE, 3, *end] for end in ([2, 3], [4, 5, 6]))]
    ids, attention, images = batch_of(rows, left=10)
    shared = shared_prefix(ids, attention, images, [0, 0, 0, 3, 4, 5, 5])
    packed = shared.pack(ids)
    visible = visible_places(shared.layout, packed.shape)
    assert packed.shape == (4, 7 + 2 + 3), "a beginning once, here of seven tokens, and what differs"
    assert len(shared.layout.blocks) < 9, "parts of similar length and beginnings of any share a block"
    for row, tokens in enumerate(rows):
        for offset, token in enumerate(tokens):
            place = 10 - len(tokens) + offset
            group, column = shared.group[row, place], shared.column[row, place]
            assert packed[group, column] == token
            assert packed.flatten()[visible[group, column]].tolist() == tokens[: offset + 1]
    assert torch.equal(packed[shared.group, shared.column][attention.bool()], ids[attention.bool()])


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_training_on_a_cpu_attends_in_float32(given: torch.dtype) -> None:
    shared = shared_prefix(*batch_of(ROWS), [0, 0, 0, 3, 4])
    shape = shared.row.shape
    query, key, value = (torch.randn(shape[0], 2, shape[1], 8).to(given).requires_grad_() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend_packed(torch.nn.Module(), query, key, value, None, shared.layout, scaling=0.5)
    assert found.dtype == given, "what follows may have no other type"
    of_heads = [part.float().transpose(0, 1).flatten(1, 2) for part in (query, key, value)]  # (heads, G * K, C)
    scores = 0.5 * of_heads[0] @ of_heads[1].transpose(1, 2)
    scores = scores.masked_fill(~visible_places(shared.layout, shape).flatten(0, 1), -torch.inf)
    expected = (scores.softmax(-1) @ of_heads[2]).unflatten(1, shape).permute(1, 2, 0, 3)
    error = (found.float() - expected).abs() / expected.abs().clamp(min=1e-2)
    assert error.max() < (1e-4 if given == torch.float32 else 2**-8 + 1e-4), "rounded once, at the end"
    found.sum().backward()
    assert query.grad.dtype == given and query.grad.abs().sum() > 0


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
    return tiny_ctinstruct().eval()


def family(name):
    def build():
        tokenizer = tiny_tokenizer()
        if name in QWEN_FAMILIES:
            config = whole_model(name).config.get_text_config()
            config.vocab_size = len(tokenizer)
            language_model = QWEN_TEXT_CLASSES[config.model_type](config)
        else:
            language_model = random_model(name, tokenizer, len(tokenizer))
        return build_ctinstruct(VISION, language_model, tokenizer).eval()

    return build


def checkpointing():
    model = tiny_ctinstruct().eval()
    model.gradient_checkpointing_enable()
    model.language_model.train()
    return model


def lora():
    model = tiny_ctinstruct()
    model.language_model = add_lora(model.language_model, model.tokenizer, LoraSettings("tiny", rank=4, dropout=0.0))
    for name, part in model.language_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.1)
    freeze_unused(model)
    return model.eval()


BUILDS = {"Qwen2-VL": qwen2_vl, "checkpointing": checkpointing, "LoRA": lora}
BUILDS |= {name: family(name) for name in (*FAMILIES, "Qwen2.5-VL", "Qwen3-VL")}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_losses_and_gradients_are_those_of_separate_rows(build) -> None:
    model = build()
    assert can_share_prefix(model.language_model.config.get_text_config())
    kinds = ["segmentation", "open_vqa", "diagnosis", "two_volumes", "two_structures", "text_only", "yes_no"]
    samples = [make_sample(kind, model.tokenizer, 4 + (number > 4)) for number, kind in enumerate(kinds)]
    for sample in (samples[1], samples[2], samples[4]):
        sample.volumes, sample.volume_keys = samples[0].volumes, samples[0].volume_keys
        sample.prompt_ids = samples[0].prompt_ids
    batch = collate(samples, model.tokenizer)
    found = []
    for share in (False, True):
        model.zero_grad()
        output = (extended(model, share_volumes=True) if share else model)(batch)
        output.loss.backward()
        found.append((output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, plain_gradients), (shared, shared_gradients) = found
    assert shared.metrics.keys() == plain.metrics.keys() and shared_gradients.keys() == plain_gradients.keys()
    for name, value in plain.metrics.items():
        assert shared.metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name, value in plain_gradients.items():
        assert torch.allclose(shared_gradients[name], value, atol=2e-5 + 1e-3 * float(value.abs().max())), name


def test_the_volume_is_read_once(monkeypatch) -> None:
    model = extended(qwen2_vl(), share_volumes=True)
    samples = [make_sample(kind, model.tokenizer, 4) for kind in ("open_vqa", "yes_no", "diagnosis")]
    for sample in samples[1:]:
        sample.volumes, sample.volume_keys = samples[0].volumes, samples[0].volume_keys
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


def test_a_model_that_shared_answers_and_is_saved_as_if_it_had_not(tmp_path) -> None:
    model = qwen2_vl()
    samples = [make_sample(kind, model.tokenizer, 4) for kind in ("open_vqa", "yes_no")]
    samples[1].volumes, samples[1].volume_keys = samples[0].volumes, samples[0].volume_keys
    for sample in samples:
        sample.answer_ids = []
    batch = collate(samples, model.tokenizer)
    options = {"num_beams": 2, "max_new_tokens": 12}
    before = [answer.token_ids.tolist() for answer in generate(model, batch, **options)]
    model = extended(model, share_volumes=True)
    assert [answer.token_ids.tolist() for answer in generate(model, batch, **options)] == before
    save_checkpoint(model, tmp_path / "model")
    assert f'"{NAME}"' not in (tmp_path / "model" / "config.json").read_text()
    loaded = load_checkpoint(tmp_path / "model").eval()
    assert [answer.token_ids.tolist() for answer in generate(loaded, batch, **options)] == before
