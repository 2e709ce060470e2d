"""Answers of CTInstruct, with the masks and confidences that are read from them: against plain scoring and training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datasets.vocabulary import diseases_of
from models.generation import generate
from tests.embedding_loop import embed_by_a_loop
from tests.tiny_model import collate, make_sample, tiny_ctinstruct


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


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
