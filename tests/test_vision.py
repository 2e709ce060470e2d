"""The vision model's encoder against plain code that shares no work between slices or passes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor

import models.encoders.hybrid_2d1d as encoder_module
from datasets.errors import InputError
from models.configuration import VisionConfig
from models.encoders.attention import ContinuousPositionBias, Transformer
from models.encoders.hybrid_2d1d import merge_zero_slices
from models.encoders.resnet import SliceResNet
from models.vision import VisionModel
from tests import plain_vision
from tests.parity import VECTORS
from tests.vision_samples import TINY, assert_close, padded_volume, randomise, vision_model

model = vision_model  # the fixture


# ---------------------------------------------------------------------------------------------------- configuration


def test_configuration_survives_json():
    config = replace(TINY, crop_size=(128, 64, 8), query_dropout=0.25)
    assert VisionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 3}, "heads"),
        ({"crop_size": [100, 64, 8]}, "multiples of 32"),
        ({"query_width": 30}, "query_width 30"),
    ],
)
def test_configuration_names_what_is_wrong(values: dict, message: str):
    with pytest.raises(InputError, match=message):
        VisionConfig.from_dict(values)


def test_unknown_encoder_is_named():
    with pytest.raises(InputError, match="'4D'"):
        VisionModel(replace(TINY, encoder="4D"))


def test_full_size_has_the_published_names_and_shapes():
    expected = json.loads((VECTORS / "reference_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        actual = {name: list(tensor.shape) for name, tensor in VisionModel(VisionConfig()).state_dict().items()}
    assert actual == expected


# ------------------------------------------------------------------------------------------------------- slice network


@torch.no_grad()
def test_summed_stem_equals_torchvision_on_three_equal_channels():
    torch.manual_seed(0)
    reference = randomise(torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 2, 1])).eval()
    widths = {"resnet_layers": (1, 1, 2, 1), "resnet_channels": (64, 128, 256, 512), "stem_width": 64}
    own = SliceResNet(replace(TINY, **widths)).eval()
    own.load_state_dict(reference.state_dict(), strict=True)
    maps: dict[str, Tensor] = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        part = getattr(reference, name)
        part.register_forward_hook(lambda _, __, output, name=name: maps.update({name: output.clone()}))
    slices = torch.randn(2, 1, 64, 96)
    reference(slices.repeat(1, 3, 1, 1))
    for actual, expected in zip(own(slices), maps.values(), strict=True):
        assert_close(actual, expected)
        assert actual.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_a_stem_of_another_width_feeds_the_same_stages():
    config = replace(TINY, stem_width=24)
    network = SliceResNet(config).eval()
    maps = network(torch.randn(2, 1, 64, 64))
    assert [level.shape[1] for level in maps] == list(config.skip_channels) and maps[0].shape[1] == 24
    expected = network.layer1(network.maxpool(network.act1(network.bn1(maps[0]))))
    assert_close(maps[1], expected)


@torch.no_grad()
def test_slices_in_chunks_equal_slices_one_by_one(model: VisionModel):
    slices = torch.randn(37, 1, 64, 64)
    singles = [model.encoder.resnet2D(single[None]) for single in slices]
    for level, actual in enumerate(model.encoder.resnet2D(slices)):
        assert_close(actual, torch.cat([maps[level] for maps in singles]))
        assert actual.is_contiguous(memory_format=torch.channels_last)


def test_zero_slices_are_merged():
    slices = torch.randn(9, 1, 4, 4)
    slices[[0, 3, 4, 8]] = 0
    slices[5] = 0
    slices[5, 0, 2, 1] = 1e-30  # one voxel that is not zero makes it a slice of its own
    distinct, rows = merge_zero_slices(slices)
    assert len(distinct) == 6
    assert torch.equal(distinct[rows], slices)
    everything, rows = merge_zero_slices(slices[[1, 2]])
    assert torch.equal(everything[rows], slices[[1, 2]])
    nothing, rows = merge_zero_slices(slices[[0, 3]])
    assert len(nothing) == 1 and rows.tolist() == [0, 0]


@torch.no_grad()
def test_padding_costs_one_slice_and_changes_nothing(model: VisionModel, monkeypatch: pytest.MonkeyPatch):
    volume = padded_volume()
    seen: list[int] = []
    first_block = model.encoder.resnet2D.layer1[0]
    handle = first_block.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    merged = model.encode(*volume)
    real = int(volume.slice_marks.sum())
    assert sum(seen) == real + 1 == len(merged.skips[0])
    seen.clear()
    monkeypatch.setattr(encoder_module, "merge_zero_slices", lambda slices: (slices, torch.arange(len(slices))))
    plain = model.encode(*volume)
    handle.remove()
    assert sum(seen) == volume.slice_marks.numel() > real + 1
    assert_close(merged.tokens, plain.tokens)
    for once, each in zip(merged.skips, plain.skips, strict=True):
        assert_close(once[merged.slice_rows], each[plain.slice_rows])


# -------------------------------------------------------------------------------------------------------- transformers


@torch.no_grad()
@pytest.mark.parametrize("order", ["spatial", "temporal"])
def test_transformer_against_loops(order: str):
    """The temporal order feeds (X*Y, T) tokens to a convolution over (T, X, Y) by reshape: the published quirk."""
    torch.manual_seed(0)
    shape, heads = (4, 2, 3), 2
    transformer = randomise(Transformer(width=12, depth=2, heads=heads, head_width=6)).double().eval()
    if order == "spatial":
        x, bias, visible = torch.randn(4, 6, 12).double(), torch.randn(heads, 6, 6).double(), None
    else:
        x, bias, visible = torch.randn(6, 4, 12).double(), None, torch.rand(6, 4) > 0.4
        visible[:, 1] = True
    actual = transformer(x, shape, bias, visible)
    # The network keeps single precision where it normalises queries and keys.
    assert_close(actual, plain_vision.transformer(x, transformer, heads, shape, bias, visible), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1)])
def test_position_bias_against_loops(size: tuple[int, int]):
    torch.manual_seed(0)
    module = ContinuousPositionBias(width=16, heads=3)
    expected = plain_vision.position_bias(module.net, *size)
    assert torch.allclose(module(*size), expected, atol=1e-5)


@torch.no_grad()
def test_encoder_against_loops(model: VisionModel):
    """From slice vectors to tokens, with the layout of a (2, 2, 3) grid written out."""
    volume = padded_volume()
    volume.slice_marks[1, 3] = 0  # of one column alone, so that columns cannot be mixed up unseen
    encoded = model.encode(*volume)
    depth, (size_z, size_x, size_y) = 4, volume.patch_grid
    size_t = size_z * depth
    vectors = torch.stack([encoded.skips[-1][row].mean(dim=(1, 2)) for row in encoded.slice_rows.flatten()])
    video = torch.zeros(size_t, size_x * size_y, vectors.shape[1])
    visible = torch.zeros(size_x * size_y, size_t)
    for patch in range(len(volume.patches)):
        block, place = divmod(patch, size_x * size_y)
        for d in range(depth):
            video[block * depth + d, place] = vectors[patch * depth + d]
            visible[place, block * depth + d] = volume.slice_marks[patch, d]
    encoder, shape = model.encoder, (size_t, size_x, size_y)
    bias = plain_vision.position_bias(encoder.spatial_rel_pos_bias.net, size_x, size_y)
    heads = TINY.attention_heads
    video = plain_vision.transformer(video, encoder.enc_spatial_transformer, heads, shape, bias, None)
    columns = plain_vision.transformer(
        video.transpose(0, 1).contiguous(), encoder.enc_temporal_transformer, heads, shape, None, visible > 0
    )
    llm = model.llm_tokens(encoded)
    assert model.llm_grid(encoded) == shape
    for patch in range(len(volume.patches)):
        block, place = divmod(patch, size_x * size_y)
        for d in range(depth):
            token = columns[place, block * depth + d]
            assert_close(encoded.tokens[patch, d], token, 1e-4)
            assert_close(llm[(block * depth + d) * size_x * size_y + place], model.bridger(token), 1e-4)


@torch.no_grad()
def test_marked_slices_are_not_looked_at(model: VisionModel):
    """With one column of patches PEG only looks back: padding at the end could reach real slices by attention alone."""
    patches, marks = torch.randn(2, 64, 64, 4), torch.ones(2, 4)
    changed = patches.clone()
    changed[1, :, :, 2:] = 3 * torch.randn(64, 64, 2)
    hidden = marks.clone()
    hidden[1, 2:] = 0
    real = hidden.bool()
    outcomes = [model.encode(content, hidden, (2, 1, 1)).tokens[real] for content in (patches, changed)]
    assert torch.equal(*outcomes)
    shown = [model.encode(content, marks, (2, 1, 1)).tokens[real] for content in (patches, changed)]
    assert (shown[0] - shown[1]).abs().max() > 1e-3


@torch.no_grad()
def test_volumes_encoded_together_equal_volumes_alone(model: VisionModel):
    volumes = [padded_volume(), padded_volume((1, 2, 1), 5, seed=2), padded_volume((1, 1, 1), 3, seed=3)]
    volumes[2] = volumes[2]._replace(slice_marks=torch.ones(1, 3))
    queries = torch.randn(2, TINY.llm_width)
    for volume, together in zip(volumes, model.encode_many(volumes), strict=True):
        alone = model.encode(*volume)
        assert_close(together.tokens, alone.tokens)
        assert_close(model.decode_masks(together, queries), model.decode_masks(alone, queries))


@pytest.mark.parametrize(
    ("shape", "marks", "grid", "message"),
    [
        ((2, 64, 64, 4), (2, 4), (1, 1, 1), "do not fit grid"),
        ((2, 64, 32, 4), (2, 4), (2, 1, 1), "in-plane crop"),
        ((2, 64, 64, 4), (2, 3), (2, 1, 1), "slice marks"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(model: VisionModel, shape, marks, grid, message):
    with pytest.raises(ValueError, match=message):
        model.encode(torch.zeros(shape), torch.ones(marks), grid)
    with pytest.raises(ValueError, match="nothing to encode"):
        model.encode(torch.zeros(1, 64, 64, 4), torch.zeros(1, 4), (1, 1, 1))
