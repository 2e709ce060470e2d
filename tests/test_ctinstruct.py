"""CTInstruct: mixed batches, special tokens, generation, checkpoints; each against the same thing done another way."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from datasets.errors import CheckpointError
from datasets.vocabulary import diseases_of
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.generation import generate
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


def next_token_log_probabilities(model, batch, answers):
    """Without a cache, for row 0: log-probabilities of the token after partial answers (n, m) -> (n, vocabulary)."""
    embeddings, positions = embed_by_a_loop(model, batch, batch.volumes)
    count, length = answers.shape
    following = positions[:, :1, -1:] + torch.arange(1, length + 1)
    tokens = model.language_model.get_input_embeddings()(answers)
    logits = model.language_model(
        inputs_embeds=torch.cat([embeddings[:1].expand(count, -1, -1), tokens], dim=1),
        attention_mask=F.pad(batch.attention_mask[:1], (0, length), value=1).expand(count, -1),
        position_ids=torch.cat([positions[:, :1], following], dim=-1).expand(-1, count, -1),
    ).logits
    return logits[:, -1].log_softmax(-1)


@torch.no_grad()
def test_greedy_generation_with_the_cache_equals_scoring_every_prefix_anew(model):
    sample = make_sample("two_volumes", model.tokenizer, 4, answered=False)
    longer = make_sample("open_vqa", model.tokenizer, 5, answered=False)
    batch = collate([sample, longer], model.tokenizer)
    assert batch.attention_mask[0].sum() != batch.attention_mask[1].sum(), "one of the two is padded"
    predictions = generate(model, batch, num_beams=1, max_new_tokens=8)
    for row, prediction in enumerate(predictions):
        single = collate([[sample, longer][row]], model.tokenizer)
        answer = torch.zeros(1, 0, dtype=torch.long)
        for token in prediction.token_ids:
            expected = next_token_log_probabilities(model, single, answer).argmax(-1)
            assert int(expected) == int(token)
            answer = torch.cat([answer, expected[:, None]], dim=1)


@torch.no_grad()
def test_a_wide_enough_beam_finds_the_best_of_all_answers(model):
    """As many beams as tokens, two steps: the search is exhaustive, and so is the loop that it is compared with."""
    batch = collate([make_sample("open_vqa", model.tokenizer, 5, answered=False)], model.tokenizer)
    vocabulary, end = len(model.tokenizer), model.tokenizer.eos_token_id
    first = next_token_log_probabilities(model, batch, torch.zeros(1, 0, dtype=torch.long))[0]
    second = next_token_log_probabilities(model, batch, torch.arange(vocabulary)[:, None])
    scores = (first[:, None] + second) / 2  # the mean a token, as length penalty 1 has it
    scores[end] = -torch.inf
    best = divmod(int(scores.argmax()), vocabulary)
    expected = [end] if first[end] > scores.max() else list(best)
    prediction = generate(model, batch, num_beams=vocabulary, max_new_tokens=2)[0]
    assert prediction.token_ids.tolist() == [token for token in expected if token != end]


@torch.no_grad()
def training_pass(model, answered):
    """Hidden states (tokens, hidden) and labels (tokens,) of a question with its answer, and its encoded volumes."""
    batch = collate([answered], model.tokenizer)
    encoded = model.encode(batch)
    embeddings, positions = embed_by_a_loop(model, batch, batch.volumes)
    hidden = model.language_model.model(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, position_ids=positions
    ).last_hidden_state
    return hidden[0], batch.labels[0], encoded


def test_generated_special_tokens_are_read_from_the_chosen_sequence(model):
    """Force an answer with two <SEG> through generation, then compare with the training pass on the same answer."""
    kind = "two_structures"
    answered = make_sample(kind, model.tokenizer, 6)
    question = make_sample(kind, model.tokenizer, 6, answered=False)
    forced = answered.answer_ids
    batch = collate([question], model.tokenizer)

    def only_the_answer(_, given):
        return [forced[min(len(given), len(forced) - 1)]]

    original = model.language_model.generate
    model.language_model.generate = lambda **options: original(**options, prefix_allowed_tokens_fn=only_the_answer)
    encode, calls = model.vision.encode_many, []
    model.vision.encode_many = lambda volumes: calls.append(len(volumes)) or encode(volumes)
    try:
        prediction = generate(model, batch, num_beams=2, max_new_tokens=len(forced))[0]
    finally:
        model.language_model.generate, model.vision.encode_many = original, encode
    assert calls == [1], "the volume is encoded once"
    assert prediction.token_ids.tolist() == forced[:-1]
    hidden, labels, encoded = training_pass(model, answered)
    with torch.no_grad():
        expected = model.vision.decode_masks(encoded[0][0], hidden[labels == model.segmentation_id])
    assert prediction.mask_logits.shape == (2, *answered.volumes[0].placement.padded_shape)
    assert torch.allclose(prediction.mask_logits, expected, atol=1e-3)


def test_confidences_are_named_by_the_label_set(model):
    answered = make_sample("diagnosis_16", model.tokenizer, 7)
    question = make_sample("diagnosis_16", model.tokenizer, 7, answered=False)
    forced = answered.answer_ids
    original = model.language_model.generate
    model.language_model.generate = lambda **options: original(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[min(len(given), len(forced) - 1)]]
    )
    try:
        prediction = generate(model, collate([question], model.tokenizer), num_beams=1, max_new_tokens=40)[0]
    finally:
        model.language_model.generate = original
    assert list(prediction.confidences) == diseases_of("RadChestCT")
    head = model.diagnosis_heads.heads["RadChestCT"]
    hidden, labels, _ = training_pass(model, answered)
    states = hidden[labels == model.confidence_id]
    expected = torch.sigmoid((head.weight * states).sum(1) + head.bias)
    assert list(prediction.confidences.values()) == pytest.approx(expected.tolist(), rel=1e-4)


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


def test_a_checkpoint_gives_the_same_answers(tmp_path, model):
    save_checkpoint(model, tmp_path, max_shard_size="2MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_checkpoint(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    batch = collate([make_sample("segmentation", model.tokenizer, 9)], model.tokenizer)
    assert loaded(batch).loss.item() == pytest.approx(model(batch).loss.item(), rel=1e-6)
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not a JSON file"),
        (lambda f: edit_config(f, lambda c: c.update(format="other")), "its format is 'other'"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "damaged or incomplete"),
        (
            lambda f: edit_config(f, lambda c: c["vision"].update(query_layers=3)),
            "keys are missing, the first is vision",
        ),
        (lambda f: edit_config(f, lambda c: c["vision"].update(query_layers=1)), "unexpected key vision"),
        (lambda f: edit_config(f, lambda c: c["vision"].update(mask_hidden=64)), "has shape"),
        (lambda f: edit_config(f, lambda c: c["vision"].update(colour=1)), "unknown field colour"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, model, damage, complaint):
    save_checkpoint(model, tmp_path)
    damage(tmp_path)
    with pytest.raises((CheckpointError, ValueError), match=complaint):
        load_checkpoint(tmp_path)
