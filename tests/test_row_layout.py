"""What the collator finds out about token ids is what brute force finds, and the forward pass makes the same of it."""

from __future__ import annotations

import pickle
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from datasets.instruction import InstructionBatch, InstructionCollator, InstructionSample
from models.ctinstruct import CTInstruct
from models.encoders.hybrid_2d1d import EncodedSlices
from models.extensions.packed_rows import PackedRowLayout
from models.vision import VisionModel
from tests import waits
from tests.tiny_model import ANSWERS, VISION, collate, extended, make_sample, tiny_ctinstruct

EXTENSIONS = {
    "published": {},
    "aligned ranks": {"aligned_ranks": True},
    "shared volumes": {"share_volumes": True},
    "all of them": {"aligned_ranks": True, "share_volumes": True, "query_targets": True, "length_power": 0.5},
}


@pytest.fixture(scope="module")
def model() -> CTInstruct:
    return tiny_ctinstruct().eval()


def samples_of(model: CTInstruct) -> list[InstructionSample]:
    """One of every kind; the first three, and two others, are about one volume."""
    samples = [make_sample(kind, model.tokenizer, max(0, row - 2)) for row, kind in enumerate(ANSWERS)]
    for first, others in ((0, (1, 2)), (3, (4,))):
        for row in others:
            samples[row].volumes, samples[row].volume_keys = samples[first].volumes, samples[first].volume_keys
            samples[row].prompt_ids = samples[first].prompt_ids
            if samples[row].masks is not None:
                placement = samples[first].volumes[0].placement
                samples[row].masks = torch.randint(0, 2, (len(samples[row].masks), *placement.padded_shape)).to(
                    torch.int8
                )
    for sample in samples:
        if sample.masks is not None:
            sample.query_targets = torch.randn(len(sample.masks), VISION.query_width)
    return samples


def collated(model: CTInstruct, samples: list[InstructionSample]) -> InstructionBatch:
    rules = pickle.loads(pickle.dumps((model.position_rule, model.layout_rule)))
    return InstructionCollator(model.tokenizer.pad_token_id, *rules)(samples)


@pytest.mark.parametrize("extensions", EXTENSIONS.values(), ids=EXTENSIONS)
def test_losses_and_gradients_are_to_the_bit_those_without(model: CTInstruct, extensions: dict) -> None:
    user = extended(model, **extensions)
    samples = samples_of(model)
    found = []
    for batch in (collate(samples, model.tokenizer), collated(user, samples)):
        user.zero_grad()
        output = user(batch)
        output.loss.backward()
        gradients = {name: part.grad for name, part in user.named_parameters() if part.grad is not None}
        found.append((output.loss.detach(), output.metrics, gradients))
    plain, given = found
    assert torch.equal(plain[0], given[0])
    for before, after in zip(plain[1:], given[1:], strict=True):
        assert before.keys() == after.keys() and len(before) > 5
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layout_is_what_a_loop_over_tokens_finds(model: CTInstruct) -> None:
    batch = collated(model, samples_of(model))
    layout = batch.layout
    ids, labels = batch.input_ids.tolist(), batch.labels.tolist()
    answers = [
        (row, place - 1, token) for row, line in enumerate(labels) for place, token in enumerate(line) if token != -100
    ]
    found = zip(*(getattr(layout.answers, name).tolist() for name in ("rows", "columns", "targets")), strict=True)
    assert list(found) == answers
    assert layout.answers.kept.tolist() == sorted({column for _, column, _ in answers})
    assert layout.answers.kept[layout.answers.places].tolist() == [column for _, column, _ in answers]
    assert layout.answers.lengths.tolist() == [sum(token != -100 for token in line) for line in labels]
    assert layout.answered == [True] * len(labels)
    hidden = torch.rand(*batch.input_ids.shape, 2)
    for places, wanted in (
        (layout.segmentations, model.segmentation_id),
        (layout.confidences, model.confidence_id),
    ):
        expected = [[place for place, token in enumerate(line) if token == wanted] for line in labels]
        assert any(expected)
        for row, states in enumerate(places.states(hidden)):
            assert torch.equal(states, hidden[row, expected[row]])

    tokens: dict[int, list[int]] = {}  # of the distinct volumes, numbered end to end
    counts = [line.count(model.image_id) for line in ids]
    for row in batch.volumes_of:
        start = sum(map(len, tokens.values()))
        tokens.setdefault(row, list(range(start, start + counts[row])))
    assert layout.visual.tolist() == [token for row in batch.volumes_of for token in tokens[row]]
    assert layout.visual.max() + 1 < len(layout.visual) == sum(counts)


def test_rows_without_an_answer_and_volumes(model: CTInstruct) -> None:
    question = replace(make_sample("text_only", model.tokenizer), answer_ids=[])
    layout = collated(model, [question, make_sample("yes_no", model.tokenizer)]).layout
    assert layout.answered == [False, True] and layout.answers.lengths[0] == 1
    alone = collated(model, [question]).layout
    assert not len(alone.visual) and alone.segmentations.counts == [0]


def test_packed_rows_hold_the_rows_tokens(model: CTInstruct) -> None:
    sharing = extended(model, share_volumes=True)
    batch = collated(sharing, samples_of(model))
    assert isinstance(batch.layout, PackedRowLayout)
    packed, ids = batch.layout.packed, batch.input_ids
    packed_ids = packed.shared.pack(ids)
    answers, plain = packed.answers, batch.layout.answers
    assert torch.equal(packed_ids[answers.rows, answers.columns], ids[plain.rows, plain.columns])
    assert torch.equal(answers.targets, plain.targets) and torch.equal(answers.lengths, plain.lengths)
    assert torch.equal(answers.kept[answers.places], answers.columns)
    for name in ("segmentations", "confidences"):
        moved, before = getattr(packed, name), getattr(batch.layout, name)
        assert len(before.rows) and moved.counts == before.counts
        assert torch.equal(packed.shared.position[moved.rows, moved.columns], before.columns)
        assert torch.equal(packed.shared.row[moved.rows, moved.columns], before.rows)
    images = packed_ids == model.image_id
    assert len(packed.visual) == int(images.sum()) < len(batch.layout.visual)
    of_rows = torch.zeros_like(ids)
    of_rows[ids == model.image_id] = batch.layout.visual
    assert torch.equal(packed.visual, of_rows[packed.shared.row[images], packed.shared.position[images]])
    assert collated(sharing, [make_sample("yes_no", model.tokenizer)]).layout.packed is None


def uncounted(owner: type, name: str, reads: waits.Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a method of a class reads does not count."""
    method = getattr(owner, name)

    def call(*arguments, **options):
        before = reads.count
        result = method(*arguments, **options)
        reads.count = before
        return result

    monkeypatch.setattr(owner, name, call)


@torch.no_grad()
@pytest.mark.parametrize("extensions", EXTENSIONS.values(), ids=EXTENSIONS)
def test_around_encoder_and_mask_decoder_nothing_is_read_from_the_device(model, extensions, monkeypatch) -> None:
    """But by transformers, which asks whether any place is padding and whether all are; not so of packed rows."""
    monkeypatch.setattr(waits, "READS", (*waits.READS, "aten::_unique2", "aten::bincount"))
    user = extended(model, **extensions)
    samples = samples_of(model)
    counts = []
    for batch in (collate(samples, model.tokenizer), collated(user, samples)):
        with monkeypatch.context() as patches, waits.Reads() as reads:
            for owner, name in (
                (VisionModel, "encode_many"),
                (VisionModel, "decode_parts"),
                (VisionModel, "decode_masks"),
            ):
                uncounted(owner, name, reads, patches)
            uncounted(EncodedSlices, "part_masks", reads, patches)
            user(batch)
        counts.append(reads.count)
    assert counts[0] > 10 * counts[1] and counts[1] == (0 if "share_volumes" in extensions else 2)


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list):
        return [tensor for item in value for tensor in tensors(item)]
    if is_dataclass(value):
        return [tensor for item in fields(value) for tensor in tensors(getattr(value, item.name))]
    return []


def test_a_batch_moves_with_its_layout(model: CTInstruct) -> None:
    batch = collated(extended(model, share_volumes=True), samples_of(model))
    moved = batch.to("meta")
    assert len(tensors(moved)) == len(tensors(batch)) > 40
    assert all(tensor.is_meta for tensor in tensors(moved)) and not any(tensor.is_meta for tensor in tensors(batch))
    assert moved.layout.packed.shared.layout.blocks and moved.layout.answered == batch.layout.answered
    assert moved.volumes_of is batch.volumes_of, "what holds no tensor is not copied"
