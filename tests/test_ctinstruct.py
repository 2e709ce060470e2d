"""The losses of CTInstruct: mixed batches and special tokens, each against the same thing done another way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.language.answer_loss import answer_loss, answer_positions
from models.language.diagnosis_heads import positive_weights
from tests.embedding_loop import embed_by_a_loop
from tests.tiny_model import ANSWERS, collate, extended, make_sample, tiny_ctinstruct

KINDS = list(ANSWERS)


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_mixed_batch_of_all_kinds_is_the_mean_of_its_samples(model):
    samples = [make_sample(kind, model.tokenizer, seed) for seed, kind in enumerate(KINDS)]
    model.zero_grad()
    together = model(collate(samples, model.tokenizer)).loss
    together.backward()
    joint = gradients(model)
    model.zero_grad()
    singles = [model(collate([sample], model.tokenizer)).loss for sample in samples]
    torch.stack(singles).mean().backward()
    assert together.item() == pytest.approx(torch.stack(singles).mean().item(), rel=1e-5)
    separate = gradients(model)
    assert joint.keys() == separate.keys()
    for name, value in joint.items():
        assert torch.allclose(value, separate[name], atol=2e-5 + 1e-3 * float(separate[name].abs().max())), name


def test_questions_about_one_volume_share_its_encoding(model, monkeypatch):
    kinds = ["segmentation", "open_vqa", "two_structures", "diagnosis"]
    samples = [make_sample(kind, model.tokenizer, 4) for kind in kinds]
    singles = torch.stack([model(collate([sample], model.tokenizer)).loss for sample in samples])
    for sample in samples:
        sample.volumes, sample.volume_keys = samples[0].volumes, samples[0].volume_keys
    text = make_sample("text_only", model.tokenizer, 5)
    encode, decode, encoded, decoded = model.vision.encode_many, model.vision.decode_parts, [], []
    monkeypatch.setattr(model.vision, "encode_many", lambda volumes: encoded.append(len(volumes)) or encode(volumes))
    monkeypatch.setattr(
        model.vision, "decode_parts", lambda volume, queries: decoded.append(len(queries)) or decode(volume, queries)
    )
    batch = collate([text, *samples], model.tokenizer).to("cpu")
    assert batch.volumes_of == [0, 1, 1, 1, 1] and [len(row) for row in batch.volumes] == [0, 1, 0, 0, 0]
    together = model(batch).loss.item()
    assert encoded == [1] and decoded == [1, 2]
    assert extended(model, loss_weights={"mask": 1.0})(batch).loss.item() == pytest.approx(together, rel=1e-6)
    assert encoded == [1, 1] and decoded == [1, 2, 3], "masks of one volume are decoded together"
    expected = singles.sum() + model(collate([text], model.tokenizer)).loss
    assert together == pytest.approx(expected.item() / 5, rel=1e-5)


def test_queries_are_drawn_to_their_labels(model):
    plain = make_sample("two_structures", model.tokenizer, 2)
    without = model(collate([plain], model.tokenizer))
    assert "two_structures/query_loss" not in without.metrics
    batch = collate([replace(plain, query_targets=F.normalize(torch.randn(3, 128), dim=-1))], model.tokenizer)
    assert model(batch).loss.item() == without.loss.item(), "the published loss has no such part"
    output = extended(model, query_targets=True)(batch)
    embeddings, positions = embed_by_a_loop(model, batch, batch.volumes)
    hidden = model.language_model.model(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, position_ids=positions
    ).last_hidden_state[0]
    where = [i for i, token in enumerate(batch.input_ids[0].tolist()) if token == model.segmentation_id]
    queries = [model.vision.qwen2biolord.weight @ hidden[i] + model.vision.qwen2biolord.bias for i in where]
    pairs = zip(queries, batch.query_targets[0], strict=False)  # an answer that was cut has fewer queries than labels
    expected = sum(((query - target) ** 2).sum().item() for query, target in pairs) / 2
    assert len(where) == 2 and output.metrics["two_structures/query_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert (output.loss - without.loss).item() == pytest.approx(expected, rel=1e-4)


def test_masks_of_some_volumes_stand_for_those_of_all(model):
    samples = [make_sample("segmentation", model.tokenizer, seed) for seed in range(3)]
    batch = collate(samples, model.tokenizer)
    sampled = extended(model, mask_volumes=1).train()
    sampled.vision.eval()  # dropout and batch statistics would differ from call to call
    try:
        whole = model(batch).metrics["segmentation/mask_loss"]
        seen = {round(float(sampled(batch).metrics["segmentation/mask_loss"]), 5) for _ in range(40)}
    finally:
        model.eval()
    assert len(seen) == 3 and sum(seen) / 3 == pytest.approx(float(whole), rel=1e-3)


def test_the_diagnosis_loss_reads_token_i_with_head_i(model):
    sample = make_sample("diagnosis", model.tokenizer, 1)
    batch = collate([sample], model.tokenizer)
    output = model(batch)
    embeddings, positions = embed_by_a_loop(model, batch, batch.volumes)
    hidden = model.language_model.model(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, position_ids=positions
    ).last_hidden_state[0]
    where = [i for i, token in enumerate(batch.input_ids[0].tolist()) if token == model.confidence_id]
    head = model.diagnosis_heads.heads["CT-RATE"]
    weights, losses = positive_weights("CT-RATE"), []
    for i, position in enumerate(where):
        if not torch.isnan(sample.targets[i]):
            logit = head.weight[i] @ hidden[position] + head.bias[i]
            losses.append(F.binary_cross_entropy_with_logits(logit, sample.targets[i], pos_weight=weights[i]))
    expected = torch.stack(losses).mean()
    assert output.metrics["diagnosis/diagnosis_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_visual_tokens_reach_the_answer_and_padding_does_not(model):
    sample = make_sample("open_vqa", model.tokenizer, 2)
    longer = make_sample("diagnosis", model.tokenizer, 3)
    alone = model(collate([sample], model.tokenizer)).metrics["open_vqa/language_loss"]
    padded = model(collate([sample, longer], model.tokenizer)).metrics["open_vqa/language_loss"]
    assert alone.item() == pytest.approx(padded.item(), rel=1e-5)
    sample.volumes[0].patches.mul_(-1)
    other = model(collate([sample], model.tokenizer)).metrics["open_vqa/language_loss"]
    assert other.item() != pytest.approx(alone.item(), rel=1e-4)


def test_the_language_loss_is_a_loop_over_answer_tokens():
    labels = torch.tensor([[-100, -100, -100, 4, 7, 2], [-100] * 6, [-100, -100, 1, 2, 9, 10]])
    logits = torch.randn(3, 6, 11)
    rows = [[-logits[r, p - 1].log_softmax(-1)[labels[r, p]] for p in range(6) if labels[r, p] != -100] for r in (0, 2)]
    answers = answer_positions(labels)
    kept = logits[answers.rows, answers.columns]
    expected = torch.stack([torch.stack(rows[0]).mean(), torch.zeros(()), torch.stack(rows[1]).mean()])
    assert torch.allclose(answer_loss(kept, answers), expected)
    token_mean = torch.stack([term for terms in rows for term in terms]).mean()
    assert torch.allclose(answer_loss(kept, answers, reduction="token"), token_mean)


def test_a_length_power_of_a_half_weighs_an_answer_by_the_root_of_its_length(model):
    samples = [make_sample(kind, model.tokenizer, seed) for seed, kind in enumerate(("open_vqa", "yes_no"))]
    batch = collate(samples, model.tokenizer)
    plain = model(batch)
    means = [plain.metrics[f"{kind}/language_loss"].item() for kind in ("open_vqa", "yes_no")]
    lengths = [len(sample.answer_ids) for sample in samples]
    assert plain.loss.item() == pytest.approx(sum(means) / 2, rel=1e-5)
    weighted = extended(model, length_power=0.5)(batch)
    expected = sum(mean * length**0.5 for mean, length in zip(means, lengths, strict=True)) / 2
    assert weighted.loss.item() == pytest.approx(expected, rel=1e-5)
    assert weighted.metrics == plain.metrics, "logs stay comparable"


def test_loss_weights_scale_the_parts_of_a_sample(model):
    batch = collate([make_sample("diagnosis", model.tokenizer, 3)], model.tokenizer)
    parts = model(batch).metrics
    weighted = extended(model, loss_weights={"diagnosis": 3.0, "language": 0.5})(batch).loss.item()
    expected = 3 * parts["diagnosis/diagnosis_loss"] + 0.5 * parts["diagnosis/language_loss"]
    assert weighted == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["text_only", "open_vqa"])
def test_idle_parts_give_every_parameter_a_gradient_and_change_none(kind):
    model = tiny_ctinstruct().train()
    statistics = {n: b.clone() for n, b in model.named_buffers() if "running" in n and "decoder" in n}
    batch = collate([make_sample(kind, model.tokenizer, 8)], model.tokenizer)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = model(batch)
    plain.loss.backward()
    before = gradients(model)
    model.zero_grad()
    model = extended(model, aligned_ranks=True)
    aligned = model(batch)
    aligned.loss.backward()
    after = gradients(model)
    assert aligned.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert set(before) < set(after)
    assert all(not after[name].any() for name in set(after) - set(before))
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    unchanged = dict(model.named_buffers())
    assert all(torch.equal(unchanged[name], value) for name, value in statistics.items())
    everything = make_sample("diagnosis", model.tokenizer), make_sample("segmentation", model.tokenizer)
    model.zero_grad()
    model(collate(everything, model.tokenizer)).loss.backward()
    assert set(gradients(model)) == set(after), "whatever the samples, the same parameters take part"
