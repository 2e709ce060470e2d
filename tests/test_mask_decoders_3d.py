"""Masks, training and CTInstruct with every encoder; the 3D mask decoders against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.configuration import ENCODER_NAMES
from models.encoders.positions import sinusoidal_positions
from models.generation import generate
from models.vision import PADDING_LOGIT, VisionModel
from tests.encoder_samples import CUBES, model_of, tiny_config, volume_of
from tests.tiny_model import ANSWERS, collate, make_sample, tiny_ctinstruct, tiny_tokenizer
from tests.vision_samples import assert_close


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


# ---------------------------------------------------------------------------------------------------------------- masks


@torch.no_grad()
@pytest.mark.parametrize(("encoder", "project"), [("ViT3D", False), ("ResNet3D", True)])
def test_masks_against_patches_one_by_one(encoder: str, project: bool):
    """The large map of mask features is made, here, and multiplied; memory is pooled and padding cut out by hand."""
    model = model_of(encoder)
    config, decoder = model.config, model.decoder
    volume = volume_of(encoder)
    encoded = model.encode(*volume)
    queries = torch.randn(3, config.llm_width if project else config.query_width)
    projected = model.qwen2biolord(queries) if project else queries
    positions = sinusoidal_positions((3, 1, 2), config.query_width).view(3, 1, 2, -1)
    expected = torch.full((3, 32, 128, 192), float("nan"))
    for patch in range(4):
        skips = [skip[patch : patch + 1] for skip in encoded.skips]
        memory, places = [], []
        for k in range(3):
            if not volume.slice_marks[patch, 32 * k : 32 * k + 32].any():
                continue
            for j in range(2):
                cells = []
                for skip in skips[-decoder.memory_levels :]:
                    _, _, x, y, z = skip.shape
                    cells.append(skip[0, :, :x, j * y // 2 : (j + 1) * y // 2, k * z // 3 : (k + 1) * z // 3])
                memory.append(torch.cat([cell.mean(dim=(1, 2, 3)) for cell in cells]))
                places.append(positions[k, 0, j])
        memory = model.projection_layer(torch.stack(memory))[None]
        attended = model.transformer_decoder(projected[None], memory, torch.stack(places))
        embeddings = model.mask_embed_proj(attended)[0]
        pixels = decoder.transp_conv(decoder(*skips))[0]
        a, c = divmod(patch, 2)
        expected[:, :, 64 * c : 64 * c + 64, 96 * a : 96 * a + 96] = torch.einsum("nm,mxyz->nxyz", embeddings, pixels)
    everything = model.decode_masks(encoded, queries, project=project, only_real_slices=False)
    assert_close(everything, expected, 1e-4)
    assert everything.std() > 1e-3
    restricted = model.decode_masks(encoded, queries, project=project)
    assert_close(restricted[..., 40:152], expected[..., 40:152], 1e-4)
    assert (restricted[..., :40] == PADDING_LOGIT).all() and (restricted[..., 152:] == PADDING_LOGIT).all()
    assert model.decode_masks(encoded, queries[:0], project=project).shape == (0, 32, 128, 192)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_an_excerpt_is_a_volume(encoder: str):
    model = model_of(encoder)
    encoded = model.encode(*volume_of(encoder))
    queries = torch.randn(2, model.config.llm_width)
    logits = model.decode_masks(encoded.excerpt(), queries, only_real_slices=False)
    slices = logits.shape[-1]
    assert logits.shape == (2, 32, 64, slices) and slices in (1, 96)
    whole = model.decode_masks(encoded, queries, only_real_slices=False)
    assert_close(logits, whole[:, :, :64, :slices])


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_where_all_is_padding_masks_are_blank(encoder: str, gradients: bool):
    model = model_of(encoder)
    with torch.no_grad():
        encoded = model.encode(*volume_of(encoder, (1, 1, 1), depth=1))
    marks = {"valid" if encoder == "2D1D" else "slice_marks": torch.zeros(1, 1, dtype=torch.bool)}
    with torch.set_grad_enabled(gradients):
        masks = model.decode_masks(replace(encoded, **marks), torch.randn(2, model.config.llm_width))
    assert masks.shape == (2, 32, 64, 1) and (masks == PADDING_LOGIT).all()


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_volumes_encoded_together_equal_volumes_alone(encoder: str):
    """Of different grids and depths: an image between two volumes."""
    model = model_of(encoder)
    volumes = [volume_of(encoder, (1, 1, 1)), volume_of(encoder, (1, 2, 1), depth=1), volume_of(encoder, (1, 1, 2))]
    queries = torch.randn(2, model.config.llm_width)
    for volume, together in zip(volumes, model.encode_many(volumes), strict=True):
        alone = model.encode(*volume)
        assert torch.equal(together.valid, alone.valid) and together.patch_grid == alone.patch_grid
        assert_close(together.tokens, alone.tokens)
        assert_close(model.decode_masks(together, queries), model.decode_masks(alone, queries), 1e-4)


# ------------------------------------------------------------------------------------------------------------- training


def training_step(model: VisionModel, encoder: str):
    torch.manual_seed(3)
    encoded = model.encode(*volume_of(encoder, (1, 1, 2)))
    masks = model.decode_masks(encoded, torch.randn(2, model.config.llm_width))
    loss = masks[masks != PADDING_LOGIT].square().mean() + model.llm_tokens(encoded).square().mean()
    loss.backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return loss.detach(), gradients, {name: part.clone() for name, part in model.named_buffers()}


@pytest.mark.parametrize("encoder", CUBES)
def test_every_parameter_learns_and_checkpointing_changes_nothing(encoder: str):
    torch.manual_seed(0)
    model = VisionModel(tiny_config(encoder)).train()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss, gradients, buffers = training_step(model, encoder)
    idle = {name for name, _ in model.named_parameters()} - gradients.keys()
    assert idle and all(name.startswith("transformer_decoder.") and ".norm1." in name for name in idle)
    for name, gradient in gradients.items():
        assert gradient.any(), name
    model.load_state_dict(start)
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing_enable()
    again, recomputed_gradients, recomputed_buffers = training_step(model, encoder)
    assert torch.allclose(again, loss, rtol=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (recomputed_gradients[name] - gradient).abs().max() <= 1e-5 * scale, name
    for name, buffer in buffers.items():
        assert torch.allclose(recomputed_buffers[name], buffer, rtol=1e-5, atol=1e-6), name


@torch.no_grad()
@pytest.mark.parametrize("encoder", CUBES)
@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_stays_near(encoder: str, mode: str):
    model = model_of(encoder)
    volume, queries = volume_of(encoder, (1, 1, 1)), torch.randn(2, model.config.llm_width)
    other = VisionModel(model.config).eval()
    other.load_state_dict(model.state_dict())
    if mode == "bfloat16":
        other.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        low = other.encode(*volume)
        actual = [low.tokens, other.llm_tokens(low), other.decode_masks(low, queries, only_real_slices=False)]
    high = model.encode(*volume)
    expected = [high.tokens, model.llm_tokens(high), model.decode_masks(high, queries, only_real_slices=False)]
    for approximate, exact in zip(actual, expected, strict=True):
        assert (approximate.float() - exact).abs().mean() < 0.03 * exact.std()


# ----------------------------------------------------------------------------------------------------------- CTInstruct


@pytest.mark.parametrize("encoder", CUBES)
def test_ctinstruct_trains_on_a_mixed_batch_and_answers(encoder: str):
    tokenizer = tiny_tokenizer()
    model = tiny_ctinstruct(tokenizer=tokenizer, vision=tiny_config(encoder)).train()
    kinds = ["open_vqa", "two_structures", "diagnosis", "two_volumes"]
    samples = [make_sample(kind, tokenizer, number, vision=model.config) for number, kind in enumerate(kinds)]
    output = model(collate(samples, tokenizer))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    for part in (model.vision.encoder, model.vision.decoder, model.vision.bridger, model.language_model):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())

    model.eval()
    question = make_sample("two_structures", tokenizer, 1, answered=False, vision=model.config)
    forced = tokenizer(ANSWERS["two_structures"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    freely = model.language_model.generate
    model.language_model.generate = lambda **options: freely(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[min(len(given), len(forced) - 1)]]
    )
    prediction = generate(model, collate([question], tokenizer), num_beams=1, max_new_tokens=len(forced))[0]
    assert prediction.mask_logits.shape == (2, *question.volumes[0].placement.padded_shape)


@pytest.mark.parametrize("encoder", CUBES)
@pytest.mark.parametrize("kind", ["text_only", "open_vqa"])
def test_idle_parts_still_get_gradients_of_zero(encoder: str, kind: str):
    """As ranks that train together need it, whatever their samples ask for."""
    tokenizer = tiny_tokenizer()
    model = tiny_ctinstruct(tokenizer=tokenizer, vision=tiny_config(encoder), aligned_ranks=True).train()
    batch = collate([make_sample(kind, tokenizer, 8, vision=model.config)], tokenizer)
    model(batch).loss.backward()
    for name, parameter in model.vision.named_parameters():
        assert parameter.grad is not None or ("transformer_decoder" in name and ".norm1." in name), name
    decoder = [parameter.grad for parameter in model.vision.decoder.parameters()]
    assert not any(gradient.any() for gradient in decoder)


def test_dot_product_through_the_kernel_equals_the_full_map():
    decoder = model_of("ResNet3D").decoder
    kernel = decoder.transp_conv.conv.weight
    features, embeddings = torch.randn(2, kernel.shape[0], 3, 4, 5), torch.randn(2, 6, kernel.shape[1])
    pixels = F.conv_transpose3d(features, kernel, stride=2)
    expected = (embeddings[:, :, :, None, None, None] * pixels[:, None]).sum(2)
    assert_close(decoder.products(features, embeddings), expected, 1e-5)
