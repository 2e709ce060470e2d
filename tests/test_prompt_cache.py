"""A prompt that is read once for all beams: the answers are those of transformers, which reads it once a beam."""

from __future__ import annotations

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from models.checkpoints.folder import build_ctinstruct
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.language.loading import load_language_model
from models.prompt_cache import can_read_ahead
from tests.test_any_language_model import FAMILIES, random_model
from tests.test_smollm2 import smollm2
from tests.tiny_model import VISION, collate, make_sample, tiny_ctinstruct, tiny_tokenizer

KINDS = ("open_vqa", "two_volumes", "text_only")  # prompts of three lengths, so that two are padded on the left


def of_family(name: str) -> CTInstruct:
    tokenizer = tiny_tokenizer()
    language_model = random_model(name, tokenizer, len(tokenizer))
    with torch.no_grad():  # with weights as small as they are drawn, every prompt has the same answer
        for weight in language_model.parameters():
            weight *= 5 if weight.ndim == 2 else 1
    return build_ctinstruct(VISION, language_model, tokenizer).eval()


def questions(model: CTInstruct, *kinds: str):
    return collate([make_sample(kind, model.tokenizer, 3, answered=False) for kind in kinds], model.tokenizer)


@torch.inference_mode()
def read_once_a_beam(model: CTInstruct, batch, beams: int, tokens: int) -> list[list[int]]:
    """The tokens of transformers' own search over prompts that nobody has read, up to the end of each answer."""
    embeddings, positions = model.input_embeddings(batch, model.encode(batch))
    end = model.tokenizer.eos_token_id
    sequences = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        position_ids=positions,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=end,
    )
    return [(row[: row.index(end)] if end in row else row) for row in sequences.tolist()]


def answers(model: CTInstruct, batch, beams: int, tokens: int) -> list[list[int]]:
    return [answer.token_ids.tolist() for answer in generate(model, batch, beams, tokens)]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("build", [lambda: tiny_ctinstruct().eval(), *(lambda n=n: of_family(n) for n in FAMILIES)])
def test_answers_are_those_of_prompts_read_once_a_beam(build, beams) -> None:
    model = build()
    batch = questions(model, *KINDS)
    assert batch.attention_mask.min() == 0
    found = answers(model, batch, beams, 10)
    assert found == read_once_a_beam(model, batch, beams, 10)
    assert len({tuple(tokens) for tokens in found}) > 1, "the questions are not answered alike"


def columns_read(model: CTInstruct, batch, beams: int) -> list[tuple[int, int]]:
    """Rows and columns of each pass of the decoder."""
    seen: list[tuple[int, int]] = []

    def note(_, arguments, options) -> None:
        given = options.get("inputs_embeds")
        seen.append(tuple((options["input_ids"] if given is None else given).shape[:2]))

    handle = model.language_model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        generate(model, batch, beams, 3)
    finally:
        handle.remove()
    return seen


def test_a_prompt_is_read_by_as_many_rows_as_there_are_questions() -> None:
    model = tiny_ctinstruct().eval()
    batch = questions(model, *KINDS)
    length = batch.input_ids.shape[1]
    # no answer has to be cut short, so three tokens are found: each pass but the last reads one of every beam
    assert columns_read(model, batch, 4)[:4] == [(3, length - 1), (12, 1), (12, 1), (12, 1)]
    assert columns_read(model, batch, 1)[:2] == [(3, length), (3, 1)]


def test_states_of_special_tokens_go_on_from_the_cache() -> None:
    model = tiny_ctinstruct().eval()
    batch = questions(model, "two_structures", "text_only")
    forced = [model.segmentation_id, 20, model.segmentation_id]
    search = model.language_model.generate
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[len(given) % 3]]
    )
    found = generate(model, batch, 2, 3)[0]
    assert found.token_ids.tolist() == forced
    with torch.no_grad():  # the same sequence, read from its beginning
        encoded = model.encode(batch)
        embeddings, positions = model.input_embeddings(batch, encoded)
        said = model.language_model.get_input_embeddings()(torch.tensor([forced] * 2))
        steps = torch.arange(1, 4)
        output = model.language_model(
            inputs_embeds=torch.cat([embeddings, said], dim=1),
            position_ids=torch.cat([positions, positions[..., -1:] + steps], dim=-1),
            attention_mask=torch.cat([batch.attention_mask, torch.ones(2, 3, dtype=torch.long)], dim=1),
            output_hidden_states=True,
        )
        queries = output.hidden_states[-1][0, -3:][[0, 2]]
        expected = model.vision.decode_masks(encoded[0][0], queries)
    torch.testing.assert_close(found.mask_logits, expected, atol=1e-4, rtol=1e-3)


def of_smollm2() -> CTInstruct:
    """SmolLM2-135M with random eyes; skips where it is not installed."""
    language_model, tokenizer = load_language_model(str(smollm2()))
    torch.manual_seed(1)
    return build_ctinstruct(VISION, language_model, tokenizer).eval()


def test_a_sliding_window_is_left_to_transformers() -> None:
    tokenizer = tiny_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    torch.manual_seed(0)
    model = build_ctinstruct(VISION, MistralForCausalLM(config), tokenizer).eval()
    assert not can_read_ahead(model.language_model) and can_read_ahead(of_family("Llama").language_model)
    batch = questions(model, *KINDS)
    assert answers(model, batch, 3, 6) == read_once_a_beam(model, batch, 3, 6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_answers_of_smollm2_are_those_of_prompts_read_once_a_beam() -> None:
    model = of_smollm2()
    batch = questions(model, *KINDS)
    assert answers(model, batch, 5, 16) == read_once_a_beam(model, batch, 5, 16)
