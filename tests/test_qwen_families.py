"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL without their vision towers against transformers' whole models, on random weights.

The whole models are given the same image embeddings, and positions of their own.  Where a volume has more
slices than rows and columns, transformers 5 goes on counting after the rows and columns alone; the release was trained
with version 4.48, which counts slices too.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from datasets.errors import InputError
from models.language.loading import load_language_model, token_positions
from models.language.tiny_language_model import train_tokenizer

IMAGE = 5  # id of the image token; 3 and 4 are its markers
TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
IDS = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
QWEN2_VISION = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2, "spatial_merge_size": 1}
QWEN2_5_VISION = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 48}
QWEN3_VISION = {**QWEN2_5_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
FAMILIES = {
    "Qwen2-VL": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, QWEN2_VISION, {}),
    "Qwen2.5-VL": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, QWEN2_5_VISION, {}),
    "Qwen3-VL": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, QWEN3_VISION, {"head_dim": 16}),
}
GRIDS = [[(2, 3, 2)], [(1, 2, 2), (3, 2, 3)]]  # one volume in the first row, two in the second


def whole_model(family: str, tied: bool = False):
    config_class, model_class, vision, more = FAMILIES[family]
    config = config_class(
        text_config={**TEXT, **more}, vision_config={**vision, "spatial_merge_size": 1}, **IDS, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    return model_class(config).eval()


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request, tmp_path_factory):
    """The whole model, and what is loaded from the folder that it was saved to."""
    whole = whole_model(request.param)
    folder = tmp_path_factory.mktemp("whole")
    whole.save_pretrained(folder)
    train_tokenizer(["liver"] * 3, vocabulary=300).save_pretrained(folder)
    model, _ = load_language_model(str(folder))
    return whole, model.eval()


def batch(grids=GRIDS):
    """Ids (2, L) padded on the left, their mask, embeddings with random visual tokens in place."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for row in grids:
        ids = [7, 8]
        for t, h, w in row:
            ids += [3, *[IMAGE] * (t * h * w), 4, 9]
        rows.append([*ids, 10, 11, 12])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    visual = torch.randn(int((ids == IMAGE).sum()), TEXT["hidden_size"], generator=generator)
    return ids, mask, visual


def embed(model, ids, visual):
    embeddings = model.get_input_embeddings()(ids)
    return embeddings.masked_scatter((ids == IMAGE)[..., None], visual)


def test_the_vision_tower_is_not_built(pair):
    whole, model = pair
    assert any("visual" in name for name, _ in whole.named_parameters())
    assert not any("visual" in name for name, _ in model.named_parameters())
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for name, p in whole.named_parameters() if "visual" not in name
    )


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."], ids=["published", "nested"])
def test_both_layouts_of_a_checkpoint_load(pair, tmp_path, prefix):
    _, model = pair
    tensors = {
        f"{prefix}{name.removeprefix('model.')}" if name.startswith("model.") else name: tensor
        for name, tensor in model.state_dict().items()
    }
    tensors["visual.patch_embed.proj.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    pair[0].config.save_pretrained(tmp_path)
    train_tokenizer(["liver"] * 3, vocabulary=300).save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path))[0].state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_positions_are_those_of_transformers(pair):
    whole, model = pair
    ids, mask, _ = batch()
    given = token_positions(model.config, mask, ids == IMAGE, GRIDS)
    flat = torch.tensor([grid for row in GRIDS for grid in row])
    expected, deltas = whole.model.get_rope_index(ids, (ids == IMAGE).int(), image_grid_thw=flat, attention_mask=mask)
    real = mask.bool()
    assert torch.equal(given[:, real], expected[:, real])
    following = given.amax((0, 2)) + 1 - mask.sum(1)
    assert torch.equal(following, deltas[:, 0])
    # more slices than rows and columns: equal up to the end of the first volume, then later by the difference
    deep = [[(5, 1, 2)], [(1, 2, 2), (3, 2, 3)]]
    ids, mask, _ = batch(deep)
    given = token_positions(model.config, mask, ids == IMAGE, deep)
    flat = torch.tensor([grid for row in deep for grid in row])
    expected, _ = whole.model.get_rope_index(ids, (ids == IMAGE).int(), image_grid_thw=flat, attention_mask=mask)
    end = int((ids[0] == 4).nonzero())
    first = mask[0].bool()
    first[end:] = False
    assert torch.equal(given[:, 0, first], expected[:, 0, first])
    assert torch.equal(given[:, 0, end:], expected[:, 0, end:] + 5 - 2)


@torch.no_grad()
def test_prefill_and_every_later_step_equal_the_whole_model(pair):
    whole, model = pair
    ids, mask, visual = batch()
    flat = torch.tensor([grid for row in GRIDS for grid in row])
    embeddings = embed(whole, ids, visual)
    images = (ids == IMAGE).int()
    positions = token_positions(model.config, mask, ids == IMAGE, GRIDS)
    expected, deltas = whole.model.get_rope_index(ids, images, image_grid_thw=flat, attention_mask=mask)
    theirs = whole(inputs_embeds=embeddings, attention_mask=mask, position_ids=expected, use_cache=True)
    ours = model(inputs_embeds=embed(model, ids, visual), attention_mask=mask, position_ids=positions, use_cache=True)
    assert torch.allclose(ours.logits[mask.bool()], theirs.logits[mask.bool()], atol=1e-5)
    spread = theirs.logits[mask.bool()].std()
    chosen, full = [], mask
    for step in range(4):
        token = theirs.logits[:, -1:].argmax(-1)
        chosen.append(token)
        full = torch.cat([full, torch.ones_like(token)], dim=1)
        later = (full.cumsum(1)[:, -1:] - 1 + deltas).expand(3, -1, -1)  # as their generation has it
        theirs = whole(input_ids=token, attention_mask=full, position_ids=later, cache=theirs.cache, use_cache=True)
        ours = model(
            inputs_embeds=model.get_input_embeddings()(token),
            attention_mask=full,
            position_ids=positions[..., -1:] + step + 1,
            cache=ours.cache,
            use_cache=True,
        )
        assert (ours.logits - theirs.logits).abs().max() < 1e-4 * spread
    generated = model.generate(
        inputs_embeds=embed(model, ids, visual),
        attention_mask=mask,
        position_ids=positions,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(generated, torch.cat(chosen, dim=1))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_folder_without_a_weight_is_refused(tmp_path, family):
    whole = whole_model(family)
    whole.save_pretrained(tmp_path)
    train_tokenizer(["liver"] * 3, vocabulary=300).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks .*layers\.1\.mlp\.up_proj\.weight"):
        load_language_model(str(tmp_path))
