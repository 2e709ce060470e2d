"""Language models: the vision-free Qwen classes against transformers' own, positions, tokens, loading."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LlamaConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from datasets.errors import InputError
from datasets.vocabulary import IMAGE, NEW_TOKENS
from models.language.loading import load_language_model, token_positions, uses_3d_positions
from models.language.special_tokens import add_special_tokens
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer

TEXTS = ["Is there a pleural effusion on the left side?", "The liver is here <SEG>.", "Findings: 12 mm nodule."] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary=400)


def tiny_qwen2_vl(vocabulary: int, tied: bool) -> Qwen2VLForConditionalGeneration:
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2},
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=3,
        vision_end_token_id=4,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(config).eval()


@pytest.mark.parametrize("tied", [False, True])
def test_qwen2_vl_loads_without_its_vision_tower_and_gives_the_same_logits(tmp_path, tokenizer, tied):
    whole = tiny_qwen2_vl(len(tokenizer), tied)
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_language_model(str(tmp_path))
    assert not any("visual" in name for name, _ in model.named_parameters())
    ids = torch.randint(7, 200, (2, 11))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=mask).logits
        given = model.eval()(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(given[mask.bool()], expected[mask.bool()], atol=1e-5)


def test_a_step_with_the_cache_equals_the_whole_pass_for_3d_positions(tokenizer):
    model = build_tiny_language_model(tokenizer).eval()
    assert uses_3d_positions(model.config)
    batch, length, grid = 2, 20, (2, 3, 2)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1, :3] = 0  # left padding
    image = torch.zeros(batch, length, dtype=torch.bool)
    image[:, 4:16] = True
    embeds = torch.randn(batch, length, 128)
    prompt = 18
    positions = token_positions(model.config, mask, image, [[grid], [grid]])
    with torch.no_grad():
        whole = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
        first = model(
            inputs_embeds=embeds[:, :prompt],
            attention_mask=mask[:, :prompt],
            position_ids=positions[..., :prompt],
            use_cache=True,
        )
        steps = [first.logits]
        cache = first.past_key_values
        for i in range(prompt, length):
            step = model(
                inputs_embeds=embeds[:, i : i + 1],
                attention_mask=mask[:, : i + 1],
                position_ids=positions[..., i : i + 1],
                past_key_values=cache,
                use_cache=True,
            )
            steps.append(step.logits)
            cache = step.past_key_values
    assert torch.allclose(torch.cat(steps, 1)[mask.bool()], whole[mask.bool()], atol=1e-4)


def positions_by_walking(mask, image, grids):
    """The rule written token by token: (3, L) for one row."""
    result, start, grids = [], 0, list(grids)
    i = 0
    while i < len(mask):
        if not mask[i]:
            result.append((1, 1, 1))
            i += 1
        elif image[i]:
            t, h, w = grids.pop(0)
            for a in range(t):
                for b in range(h):
                    for c in range(w):
                        result.append((start + a, start + b, start + c))
            i += t * h * w
            start += max(t, h, w)
        else:
            result.append((start, start, start))
            start += 1
            i += 1
    return np.array(result).T


def test_positions_with_two_volumes_and_padding_equal_a_walk_over_the_tokens(tokenizer):
    config = build_tiny_language_model(tokenizer).config
    rows = [
        ([0] * 6 + [1] * 20, [(2, 1, 2), (3, 2, 1)]),
        ([1] * 22 + [0] * 4, [(4, 1, 1)]),
        ([1] * 26, []),
    ]
    mask = torch.tensor([row[0] for row in rows])
    image = torch.zeros_like(mask, dtype=torch.bool)
    image[0, 8:12] = image[0, 14:20] = True
    image[1, 3:7] = True
    given = token_positions(config, mask, image, [row[1] for row in rows])
    for r, (_, grids) in enumerate(rows):
        assert np.array_equal(given[:, r].numpy(), positions_by_walking(mask[r].tolist(), image[r].tolist(), grids))


def test_positions_are_plain_where_the_model_has_1d_ones():
    config = AutoConfig.for_model("llama")
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    image = torch.zeros_like(mask, dtype=torch.bool)
    image[:, 3] = True
    given = token_positions(config, mask, image, [[(1, 1, 1)]] * 2)
    assert given.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_image_tokens_that_do_not_fill_the_grid_are_refused(tokenizer):
    config = build_tiny_language_model(tokenizer).config
    image = torch.tensor([[False, True, True, False]])
    with pytest.raises(ValueError, match="which need 4"):
        token_positions(config, torch.ones(1, 4), image, [[(2, 2, 1)]])


def test_new_tokens_are_single_and_in_the_released_order(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(NEW_TOKENS))
    assert ids == list(range(ids[0], ids[0] + len(NEW_TOKENS)))
    assert NEW_TOKENS[0] == "<SEG>" and NEW_TOKENS[-1] == "<disease_confidence>"
    assert tokenizer("a<SEG>b", add_special_tokens=False)["input_ids"].count(ids[0]) == 1
    assert add_special_tokens(tokenizer) == 0
    assert tokenizer.convert_tokens_to_ids(IMAGE) != tokenizer.unk_token_id


@pytest.mark.parametrize(
    "text", ["Größe 12.5 mm, ≥ 3 nodules\nImpression: none", "  two  spaces ", "<report_generation> x"]
)
def test_any_text_survives_the_tiny_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("folder", ["absent", "empty", "without_tokenizer"])
def test_a_model_that_is_nowhere_gives_one_clear_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    LlamaConfig().save_pretrained(tmp_path / "without_tokenizer")
    with pytest.raises(InputError, match="could not be loaded"):
        load_language_model(str(tmp_path / folder))
