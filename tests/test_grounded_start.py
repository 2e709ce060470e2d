"""A language model made on the spot begins by finding the visual tokens of what a word names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.errors import InputError
from models.checkpoints.pretrained_vision import (
    OBJECTIVE_WEIGHTS,
    labels_to_texts,
    save_pretraining,
    tokens_to_texts,
)
from models.ctinstruct import CTInstruct
from models.extensions.grounded_start import COPYING_LAYERS, REACH, WORD_LENGTH, slow_channels, start_grounded
from models.language.tiny_language_model import train_tokenizer
from models.pretraining import PretrainingModel
from tests.pretraining_samples import tiny_pretraining
from tests.tiny_model import tiny_ctinstruct

LABELS = ("emphysema", "pleural effusion", "lung nodule", "left lung", "aorta")
SENTENCES = [
    sentence
    for label in LABELS
    for sentence in (f"Is there {label}? Yes, a {label}.", f"A. {label.capitalize()} B. {label.capitalize()}")
]


def start_from(model: CTInstruct, folder: Path, embeddings: dict[str, torch.Tensor]) -> None:
    vision = model.vision
    start_grounded(model, labels_to_texts(vision, folder), tokens_to_texts(vision, folder), embeddings)


@pytest.fixture(scope="module")
def grounded(tmp_path_factory) -> tuple[CTInstruct, PretrainingModel, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("pretraining")
    pretraining = tiny_pretraining(seed=3, running_centre=True)
    with torch.no_grad():
        pretraining.text_projection.weight.add_(0.02 * torch.randn_like(pretraining.text_projection.weight))
        pretraining.centre.mean.normal_()
    save_pretraining(pretraining, folder)
    embeddings = dict(zip(LABELS, torch.nn.functional.normalize(torch.randn(5, 128), dim=-1), strict=True))
    model = tiny_ctinstruct(tokenizer=train_tokenizer(SENTENCES * 3, vocabulary=600))
    start_from(model, folder, embeddings)
    return model.eval(), pretraining, embeddings


def visual_token_of(pretraining: PretrainingModel, embedding: torch.Tensor) -> torch.Tensor:
    """An encoder's token that pretraining sees just where it sees the label."""
    place = pretraining.embed_texts(embedding[None])[0] * 10
    layer = pretraining.image_projection
    return torch.linalg.pinv(layer.weight) @ (place - layer.bias) + pretraining.centre.mean


@pytest.mark.parametrize(("head_width", "theta"), [(32, 1e4), (64, 1e4), (128, 1e6), (8, 10.0)])
def test_slow_channels_turn_by_less_than_one_radian(head_width, theta):
    half = head_width // 2
    angles = [REACH * theta ** (-(channel % half) / half) for channel in range(head_width)]
    assert slow_channels(head_width, theta) == [channel for channel, angle in enumerate(angles) if angle < 1]


@torch.no_grad()
def test_the_tokens_of_a_label_lie_where_pretraining_has_it(grounded):
    model, pretraining, embeddings = grounded
    places = pretraining.embed_texts(torch.stack(list(embeddings.values())))
    table = model.language_model.get_input_embeddings().weight
    for spelling in (str.lower, str.capitalize):
        ids = [model.tokenizer(f" {spelling(label)}", add_special_tokens=False)["input_ids"] for label in LABELS]
        assert all(len(words) == len(label.split()) for words, label in zip(ids, LABELS, strict=True))
        words = torch.stack([table[row].mean(0)[:5] for row in ids])
        cosines = torch.nn.functional.normalize(words, dim=-1) @ torch.nn.functional.normalize(words, dim=-1).T
        # a change of coordinates keeps the angles between labels
        torch.testing.assert_close(cosines, places @ places.T, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_word_looks_at_the_tokens_of_what_it_names(grounded):
    """Attention weights of the first layer as transformers computes them, over a reach that turns positions."""
    model, pretraining, embeddings = grounded
    language_model = model.language_model
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    tokens = torch.stack([visual_token_of(pretraining, embedding) for embedding in embeddings.values()])
    visual = model.vision.bridger(tokens)
    table = language_model.get_input_embeddings().weight
    filler = table[model.tokenizer(" there", add_special_tokens=False)["input_ids"][0]]
    for number, label in enumerate(LABELS):
        word = table[model.tokenizer(f" {label}", add_special_tokens=False)["input_ids"][-1]]
        sequence = torch.cat([visual, filler.expand(60, -1), word[None]])[None]
        output = language_model(inputs_embeds=sequence, output_attentions=True)
        looks = output.attentions[0][0, :, -1].mean(0)
        assert int(looks[:5].argmax()) == number, label
        assert looks[number] > 3 * looks[5:-1].mean()  # and more than at other words
    language_model.set_attn_implementation(before)


@torch.no_grad()
def test_words_and_visual_tokens_compare_as_pretraining_compares_them(grounded):
    """gelu(x) - gelu(-x) = x, so the projector keeps coordinates with their signs."""
    model, pretraining, embeddings = grounded
    tokens = torch.randn(7, pretraining.vision.config.token_width)
    visual = model.vision.bridger(tokens)
    table = model.language_model.get_input_embeddings().weight
    ids = [model.tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in LABELS]
    words = torch.stack([table[row].mean(0)[:5] for row in ids]) / (WORD_LENGTH * 32**0.5)
    places = pretraining.embed_texts(torch.stack(list(embeddings.values())))
    projected = pretraining.image_projection(tokens - pretraining.centre.mean)
    torch.testing.assert_close(
        (visual[:, 64:69] - visual[:, 96:101]) @ words.T, projected @ places.T, rtol=1e-3, atol=1e-3
    )


@torch.no_grad()
def test_copying_heads_say_the_word_that_they_look_at(grounded):
    """What a layer adds at a place where its last group of heads looks at one word alone."""
    model, *_ = grounded
    table, config = model.language_model.get_input_embeddings().weight, model.language_model.config
    groups = config.num_key_value_heads
    layers = model.language_model.model.layers
    copying = layers[COPYING_LAYERS]
    assert 0 < len(copying) < len(layers)
    for layer in copying:
        values = layer.self_attn.v_proj(table).unflatten(1, (groups, -1))
        values[:, :-1] = 0
        added = layer.self_attn.o_proj(values.repeat_interleave(config.num_attention_heads // groups, 1).flatten(1))
        assert not added[:, :64].any(), "a word's own place stays as it is"
        logits = model.language_model.get_output_embeddings()(added)
        assert torch.equal(logits.argmax(1), torch.arange(len(table)))


@torch.no_grad()
def test_more_labels_than_slow_channels_share_them(tmp_path):
    save_pretraining(tiny_pretraining(), tmp_path)
    labels = [f"finding {first}{second}" for first in "abcdefgh" for second in "uvwxy"]
    model = tiny_ctinstruct()
    start_from(model, tmp_path, {label: torch.randn(128) for label in labels})
    word = model.tokenizer(" finding", add_special_tokens=False)["input_ids"][-1]
    coordinates = model.language_model.get_input_embeddings().weight[word]
    assert coordinates[:28].abs().min() > 0 and not coordinates[28:32].any() and not coordinates[64:].any()


@pytest.mark.parametrize(
    ("lacks", "complaint"), [("a slow channel", "turns slowly enough"), ("objectives", "no projection to texts")]
)
def test_nothing_starts_without(lacks, complaint, grounded, tmp_path):
    _, pretraining, embeddings = grounded
    save_pretraining(pretraining, tmp_path)
    model = tiny_ctinstruct()
    if lacks == "objectives":
        (tmp_path / OBJECTIVE_WEIGHTS).unlink()
    else:
        model.language_model.config.rope_parameters["rope_theta"] = 1.0
    before = {name: part.clone() for name, part in model.state_dict().items()}
    with pytest.raises(InputError, match=complaint):
        start_from(model, tmp_path, embeddings)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
