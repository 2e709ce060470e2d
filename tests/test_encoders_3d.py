"""The contract of every encoder: tokens, their order and validity, padding; the 3D ones against plain loops."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from monai.networks.nets.resnet import ResNet

from datasets.errors import InputError
from models.configuration import ENCODER_NAMES, VISION_PRESETS, VisionConfig, vision_preset
from models.encoders.contract import VolumePatches
from models.encoders.positions import sinusoidal_positions
from models.vision import ENCODERS, PADDING_LOGIT, VisionModel
from tests.encoder_samples import CUBES, DEPTH, model_of, tiny_vision, volume_of
from tests.vision_samples import assert_close


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


# ------------------------------------------------------------------------------------------------------- configuration


def test_every_name_has_an_encoder_and_a_mask_decoder():
    assert tuple(ENCODERS) == ENCODER_NAMES
    with pytest.raises(InputError, match="'ViT4D'"):
        vision_preset("tiny", "ViT4D")
    with pytest.raises(InputError, match="'huge'"):
        vision_preset("huge", "ViT3D")


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_parts_of_masks_are_slices_where_the_configuration_says_so(encoder: str):
    model, volume = model_of(encoder), volume_of(encoder, (2, 1, 1))
    encoded, queries = model.encode(*volume), torch.randn(2, model.config.llm_width)
    parts = model.decode_parts(encoded, queries)
    assert torch.equal(parts, encoded.part_masks(model.decode_masks(encoded, queries)))
    by_slice = encoder == "2D1D"
    assert model.config.masks_by_slice == by_slice
    assert len(parts) == (int(volume.slice_marks.sum()) if by_slice else 2)
    nothing = model.decode_parts(encoded, queries[:0])
    assert nothing.shape == (len(parts), 0, *parts.shape[2:])


@pytest.mark.parametrize("size", ["full", "small", "compact", "narrow", "tiny"])
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_presets_survive_a_dictionary(size: str, encoder: str):
    config = vision_preset(size, encoder)
    assert VisionConfig.from_dict(config.to_dict()) == config
    assert config.encoder == encoder
    if encoder == "2D1D":
        assert config == VISION_PRESETS[size]
    else:
        full = {"ViT3D": (768, 12, 16), "ResNet3D": (2048, 12, 16)}
        assert size != "full" or (config.token_width, config.vit_depth, config.vit_patch) == full[encoder]
        tokens = prod(config.token_grid((1, 1, config.patch_max), config.crop_size[2]))
        assert tokens <= 64 * config.patch_max <= 400


def test_a_configuration_from_before_the_3d_encoders_is_2d1d():
    values = {name: value for name, value in VISION_PRESETS["tiny"].to_dict().items() if not name.startswith("vit_")}
    del values["llm_pooling"]
    assert VisionConfig.from_dict(values) == VISION_PRESETS["tiny"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": (64, 64, 48)}, "all of them must be multiples of 32"),
        ({"vit_patch": 12}, "vit_patch 12"),
        ({"vit_depth": 7}, "vit_depth 7"),
        ({"vit_width": 130}, "vit_width 130"),
        ({"llm_pooling": 0}, "llm_pooling 0"),
    ],
)
def test_a_wrong_3d_configuration_is_named(changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(vision_preset("tiny", "ViT3D"), **changes)


# ------------------------------------------------------------------------------------------- tokens, validity and order


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
@pytest.mark.parametrize("image", [False, True])
def test_tokens_and_their_validity(encoder: str, image: bool):
    """Validity against a loop over slices: a token counts if any slice that it stands for is real."""
    model = model_of(encoder)
    volume = volume_of(encoder, (1, 2, 3), depth=1) if image else volume_of(encoder)
    encoded = model.encode(*volume)
    depth = volume.slice_marks.shape[1]
    edge = {"2D1D": 1, "ViT3D": 8, "ResNet3D": 32}[encoder]
    inplane = 1 if encoder == "2D1D" else (32 // edge) * (64 // edge)
    layers = max(depth // edge, 1)
    assert encoded.slices == depth
    assert prod(encoded.token_shape) == layers * inplane
    assert encoded.tokens.shape == (len(volume.patches), layers * inplane, model.config.token_width)
    assert encoded.valid.shape == encoded.tokens.shape[:2] and encoded.valid.dtype == torch.bool
    for patch in range(len(volume.patches)):
        for token in range(layers * inplane):
            layer = token // inplane
            real = any(volume.slice_marks[patch, layer * edge : (layer + 1) * edge].tolist())
            assert bool(encoded.valid[patch, token]) == real
    assert image or not encoded.valid.all()
    tokens = model.llm_tokens(encoded)
    assert tokens.shape == (prod(model.llm_grid(encoded)), model.config.llm_width)
    assert model.llm_grid(encoded) == model.config.token_grid(volume.patch_grid, depth)
    assert torch.isfinite(tokens).all() and torch.isfinite(encoded.tokens).all()


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_language_model_tokens_against_a_loop(encoder: str, factor: int):
    """Each is the mean of a cube of valid tokens; their order is (slices, x, y) of the whole volume."""
    model = model_of(encoder)
    volume = volume_of(encoder)
    encoded = model.encode(*volume)
    config = replace(model.config, llm_pooling=factor)
    (z, x, y), (d, h, w) = volume.patch_grid, encoded.token_shape
    expected: dict[tuple[int, ...], torch.Tensor] = {}
    for patch in range(z * x * y):
        a, b, c = patch // (x * y), patch // y % x, patch % y
        cells: dict[tuple[int, ...], list] = {}
        for token in range(d * h * w):
            k, i, j = token // (h * w), token // w % h, token % w
            cell = (k // factor, i // factor, j // factor)
            cells.setdefault(cell, [])
            if encoded.valid[patch, token] or factor == 1:
                cells[cell].append(encoded.tokens[patch, token])
        size = [max(cell[axis] for cell in cells) + 1 for axis in range(3)]
        for (k, i, j), members in cells.items():
            mean = torch.stack(members).mean(0) if members else torch.zeros_like(encoded.tokens[0, 0])
            expected[a * size[0] + k, b * size[1] + i, c * size[2] + j] = model.bridger(mean)
    before, model.config = model.config, config
    try:
        actual, grid = model.llm_tokens(encoded), model.llm_grid(encoded)
    finally:
        model.config = before
    assert grid == tuple(max(place[axis] for place in expected) + 1 for axis in range(3))
    assert_close(actual, torch.stack([expected[place] for place in sorted(expected)]), 1e-4)


@torch.no_grad()
def test_vit3d_tokens_lie_where_their_voxels_do():
    """With layers that add nothing, a token is the norm of its own cube's projection and its place in the volume."""
    model = tiny_vision("ViT3D")
    for block in model.encoder.blocks:
        for part in (block.attn.proj, block.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    volume = volume_of("ViT3D", (2, 2, 1))
    encoded = model.encode(*volume)
    embed, norm = model.encoder.patch_embed, model.encoder.norm
    positions = sinusoidal_positions((2 * 12, 2 * 4, 8), 32).view(24, 8, 8, 32)
    for patch, k, i, j in [(0, 5, 0, 0), (1, 11, 3, 7), (2, 0, 2, 5), (3, 6, 1, 3)]:
        cube = volume.patches[patch, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8]
        a, b = divmod(patch, 2)
        token = norm(embed(cube.flatten()) + positions[12 * a + k, 4 * b + i, j])
        assert_close(encoded.tokens[patch, (k * 4 + i) * 8 + j], token, 1e-4)
        assert_close(encoded.skips[-1][patch, :, i, j, k], token, 1e-4)


@torch.no_grad()
def test_vit3d_leaving_out_equals_masking_keys():
    """The blocks on all tokens, padding included, with padding masked as keys give valid tokens the same values."""
    model = model_of("ViT3D")
    volume = volume_of("ViT3D")
    encoder, encoded = model.encoder, model.encode(*volume)
    patches = volume.patches.view(4, 4, 8, 8, 8, 12, 8).permute(0, 5, 1, 3, 2, 4, 6)  # (P, d, h, w, a, b, c)
    hidden = encoder.patch_embed(patches.reshape(4, 12 * 4 * 8, 512))
    hidden = (hidden + encoder._positions(volume.patch_grid, (12, 4, 8))).reshape(1, -1, 32)
    visible = encoded.valid.view(1, 1, 1, -1)
    for block in encoder.blocks:
        hidden = hidden + block.attn(block.norm1(hidden), attn_mask=visible)
        hidden = hidden + block.mlp(block.norm2(hidden))
    tokens = encoder.norm(hidden).view_as(encoded.tokens)
    assert_close(encoded.tokens[encoded.valid], tokens[encoded.valid], 1e-4)
    assert not encoded.tokens[~encoded.valid].any()


@torch.no_grad()
def test_resnet3d_is_monais_network_with_cells_in_order():
    model = model_of("ResNet3D")
    volume = volume_of("ResNet3D")
    encoded = model.encode(*volume)
    coarsest = encoded.skips[-1]
    assert_close(coarsest.mean(dim=(2, 3, 4)), ResNet.forward(_plain_resnet(model), volume.patches[:, None]), 1e-4)
    assert coarsest.shape[2:] == (1, 2, 3)
    for patch in range(4):
        for k in range(3):
            for j in range(2):
                assert torch.equal(encoded.tokens[patch, k * 2 + j], coarsest[patch, :, 0, j, k])


def _plain_resnet(model: VisionModel) -> ResNet:
    config = model.config
    layers, channels = list(config.resnet_layers), list(config.resnet_channels)
    network = ResNet(
        "bottleneck", layers, channels, 3, 1, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    ).eval()
    network.load_state_dict(model.encoder.resnet3D.state_dict(), strict=True)
    return network


@pytest.mark.parametrize(("grid", "width"), [((2, 3, 4), 24), ((3, 1, 2), 100)])
def test_positions_in_space_against_a_loop(grid: tuple[int, int, int], width: int):
    """An even share of channels an axis, as many as needed; the last ones are cut where they are too many."""
    share = {24: 8, 100: 34}[width]
    actual = sinusoidal_positions(grid, width).view(*grid, width)
    for place in [(0, 0, 0), (1, 0, 1), tuple(size - 1 for size in grid)]:
        values = []
        for position in place:
            for i in range(share // 2):
                angle = torch.tensor(position / 10000 ** (2 * i / share), dtype=torch.float64)
                values += [angle.sin(), angle.cos()]
        assert torch.allclose(actual[place].double(), torch.stack(values[:width]), atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- padding


@torch.no_grad()
@pytest.mark.parametrize("encoder", CUBES)
def test_what_padding_voxels_hold_changes_nothing(encoder: str):
    """Not through the marks alone: convolutions would see it, but for the zeros that are put in its place."""
    model = model_of(encoder)
    volume, queries = volume_of(encoder), torch.randn(2, model.config.llm_width)
    noise = torch.randn_like(volume.patches) * (volume.slice_marks == 0)[:, None, None, :]
    outcomes = []
    for patches in (volume.patches, volume.patches + noise):
        encoded = model.encode(patches, volume.slice_marks, volume.patch_grid)
        outcomes.append((encoded.tokens, model.llm_tokens(encoded), model.decode_masks(encoded, queries)))
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("encoder", CUBES)
def test_a_patch_of_padding_is_as_no_patch(encoder: str):
    model = model_of(encoder)
    queries = torch.randn(2, model.config.llm_width)
    single = VolumePatches(torch.randn(1, *model.config.crop_size), torch.ones(1, DEPTH[encoder]), (1, 1, 1))
    empty = torch.zeros(1, *model.config.crop_size)
    marks = torch.cat([single.slice_marks, torch.zeros_like(single.slice_marks)])
    double = VolumePatches(torch.cat([single.patches, empty]), marks, (2, 1, 1))
    alone, padded = model.encode(*single), model.encode(*double)
    assert_close(padded.tokens[padded.valid], alone.tokens[0])
    masks = model.decode_masks(padded, queries)
    assert_close(masks[..., : DEPTH[encoder]], model.decode_masks(alone, queries), 1e-4)
    assert (masks[..., DEPTH[encoder] :] == PADDING_LOGIT).all()
    everything = model.decode_masks(padded, queries, only_real_slices=False)
    assert torch.isfinite(everything).all() and (everything != PADDING_LOGIT).all()


@torch.no_grad()
@pytest.mark.parametrize("encoder", CUBES)
def test_an_image_is_a_stack_of_itself(encoder: str):
    config = model_of(encoder).config
    edge = config.token_voxels[0]
    stacked = replace(config, crop_size=(32, 64, max(edge, 32)))
    model = VisionModel(stacked).eval()
    model.load_state_dict(model_of(encoder).state_dict())
    image, queries = torch.randn(2, 32, 64, 1), torch.randn(3, config.llm_width)
    encoded = model.encode(image, torch.ones(2, 1), (1, 2, 1))
    logits = model.decode_masks(encoded, queries)
    assert logits.shape == (3, 64, 64, 1)
    if encoder == "ResNet3D":  # one layer of its cells is the whole crop
        whole = model.encode(image.repeat(1, 1, 1, 32), torch.ones(2, 32), (1, 2, 1))
        assert_close(encoded.tokens, whole.tokens)
        assert_close(logits[..., 0], model.decode_masks(whole, queries).mean(-1))


@pytest.mark.parametrize("encoder", CUBES)
def test_shapes_that_do_not_fit_are_refused(encoder: str):
    model = model_of(encoder)
    with pytest.raises(ValueError, match="patches of 64 slices"):
        model.encode(torch.zeros(1, 32, 64, 64), torch.ones(1, 64), (1, 1, 1))
    with pytest.raises(ValueError, match="do not fit grid"):
        model.encode(torch.zeros(1, 32, 64, 96), torch.ones(1, 96), (1, 1, 2))
    with pytest.raises(ValueError, match="nothing to encode"):
        model.encode(torch.zeros(1, 32, 64, 96), torch.zeros(1, 96), (1, 1, 1))
