"""ImageNet weights: files written here, of a random ResNet, stand for those that a network would bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import Bottleneck, ResNet

import models.checkpoints.pretrained_backbone as backbone_module
from models.checkpoints.pretrained_backbone import (
    PretrainedBackboneError,
    inflate,
    load_pretrained_backbone,
    read_backbone,
)
from models.configuration import VisionConfig, vision_preset
from models.encoders.resnet3d import CubeResNet
from models.vision import VisionModel
from tests.vision_samples import assert_close, randomise

LAYERS, CHANNELS = (1, 1, 1, 1), (64, 16, 16, 16)  # the stems of timm and MONAI are equally wide


def config(encoder: str, **changes) -> VisionConfig:
    widths = {"resnet_layers": LAYERS, "resnet_channels": CHANNELS, "stem_width": 64}
    return replace(vision_preset("tiny", encoder), **widths, **changes)


def small_resnet(**changes) -> ResNet:
    torch.manual_seed(0)
    with torch.no_grad():
        return randomise(ResNet(Bottleneck, LAYERS, channels=CHANNELS, **changes)).eval()


def written(folder: Path, network: torch.nn.Module, ending: str = ".pth") -> Path:
    path = folder / f"resnet{ending}"
    if ending == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_2d1d_takes_a_full_resnet50_exactly(tmp_path: Path, ending: str):
    """Of torchvision's names, in a slice network of full size; the rest of the model is small."""
    torch.manual_seed(0)
    source = torchvision.models.resnet50(weights=None)
    path = written(tmp_path, source, ending)
    small = dict(spatial_depth=1, temporal_depth=1, crop_size=(32, 32, 2), query_layers=1)
    full = vision_preset("full")
    widths = {name: getattr(full, name) for name in ("resnet_layers", "resnet_channels", "stem_width")}
    vision = VisionModel(replace(vision_preset("tiny"), **widths, **small))
    others = {n: t.clone() for n, t in vision.state_dict().items() if not n.startswith("encoder.resnet2D.")}
    load_pretrained_backbone(vision, path)
    for name, tensor in source.state_dict().items():
        assert torch.equal(vision.encoder.resnet2D.state_dict()[name], tensor), name
    for name, tensor in others.items():
        assert torch.equal(vision.state_dict()[name], tensor), name


@torch.no_grad()
def test_an_inflated_convolution_answers_a_constant_depth_as_in_2d():
    network = CubeResNet(config("ResNet3D"))
    flat = {name: torch.randn(tensor.shape[:-1]) for name, tensor in network.state_dict().items() if tensor.ndim == 5}
    flat["conv1.weight"] = torch.randn(64, 3, 7, 7)
    inflated = inflate(flat, network)
    assert inflated.keys() == flat.keys()
    for name, kernel in inflated.items():
        assert kernel.shape == network.state_dict()[name].shape
        slices, inputs = kernel.shape[-1], kernel.shape[1]
        image = torch.randn(1, inputs, 9, 11)
        volume = image.unsqueeze(-1).expand(-1, -1, -1, -1, slices + 2)
        weight = flat[name].sum(1, keepdim=True) if name == "conv1.weight" else flat[name]
        expected = F.conv2d(image, weight).unsqueeze(-1).expand(-1, -1, -1, -1, 3)
        assert_close(F.conv3d(volume, kernel), expected, 1e-4)


@torch.no_grad()
def test_a_whole_inflated_network_sees_a_deep_stack_as_its_image(tmp_path: Path):
    """Far from the ends, beyond the reach of the zeros that lie there, every map is the 2D network's."""
    source = small_resnet()
    vision = VisionModel(config("ResNet3D")).eval()
    load_pretrained_backbone(vision, written(tmp_path, source))
    image = torch.randn(1, 1, 64, 64)
    maps = vision.encoder.resnet3D(image.unsqueeze(-1).expand(-1, -1, -1, -1, 192))
    features = source.act1(source.bn1(source.conv1(image.expand(-1, 3, -1, -1))))
    expected = [features]
    features = source.maxpool(features)
    for stage in (source.layer1, source.layer2, source.layer3, source.layer4):
        features = stage(features)
        expected.append(features)
    for volume, plane in zip(maps, expected, strict=True):
        middle = volume.shape[-1] // 2
        assert_close(volume[..., middle], plane, 1e-3)
    assert (maps[-1][..., 0] - expected[-1]).abs().max() > 1e-2, "the ends do see zeros"


@torch.no_grad()
def test_a_head_of_other_classes_is_left_out(tmp_path: Path):
    vision = VisionModel(config("2D1D"))
    before = vision.encoder.resnet2D.fc.weight.clone()
    source = small_resnet(num_classes=7)
    load_pretrained_backbone(vision, written(tmp_path, source))
    assert torch.equal(vision.encoder.resnet2D.layer3[0].conv2.weight, source.layer3[0].conv2.weight)
    assert torch.equal(vision.encoder.resnet2D.fc.weight, before)


def test_names_go_to_timm_and_to_torchvision(monkeypatch: pytest.MonkeyPatch):
    network, asked = small_resnet(), []

    def create_model(name: str, pretrained: bool) -> ResNet:
        asked.append((name, pretrained))
        return network

    monkeypatch.setattr(timm, "create_model", create_model)
    assert torch.equal(read_backbone("resnet50.a1_in1k")["conv1.weight"], network.conv1.weight)
    assert asked == [("resnet50.a1_in1k", True)]
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: {"which": self.name})
    assert read_backbone("ResNet50_Weights.IMAGENET1K_V2") == {"which": "IMAGENET1K_V2"}


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "ResNet50_Weights.IMAGENET1K_V2"])
def test_no_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, name: str):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(torchvision.models, "get_weight", offline)
    with pytest.raises(PretrainedBackboneError, match=f"{name}.*no route to host.*local"):
        read_backbone(name)


def test_what_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(PretrainedBackboneError, match="neither a file nor a name"):
        read_backbone("resnet5000")
    with pytest.raises(PretrainedBackboneError, match=r"absent\.pth: no such file"):
        read_backbone(tmp_path / "absent.pth")
    for ending in backbone_module.FILE_ENDINGS:
        broken = tmp_path / f"broken{ending}"
        broken.write_bytes(b"\x00\x01 not weights")
        with pytest.raises(PretrainedBackboneError, match="not a file of weights"):
            read_backbone(broken)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(PretrainedBackboneError, match="no state dict"):
        read_backbone(tmp_path / "other.pth")
    path = written(tmp_path, small_resnet())
    with pytest.raises(PretrainedBackboneError, match="ViT3D has no ResNet"):
        load_pretrained_backbone(VisionModel(config("ViT3D")), path)
    for encoder in ("2D1D", "ResNet3D"):
        deeper = VisionModel(replace(config(encoder), resnet_layers=(1, 1, 1, 2)))
        with pytest.raises(PretrainedBackboneError, match=r"lacks layer4\.1\."):
            load_pretrained_backbone(deeper, path)
        wider = VisionModel(replace(config(encoder), resnet_channels=(64, 16, 16, 32)))
        with pytest.raises(PretrainedBackboneError, match=r"layer4\.0\.\S+ has shape"):
            load_pretrained_backbone(wider, path)
    with pytest.raises(PretrainedBackboneError, match=r"has the unknown conv1\.0\."):
        load_pretrained_backbone(
            VisionModel(config("2D1D")), written(tmp_path, _with_extra_key(small_resnet()), ".safetensors")
        )


def _with_extra_key(network: ResNet) -> torch.nn.Module:
    """As a ResNet with a deep stem would have it."""
    network.conv1.add_module("0", torch.nn.Conv2d(3, 4, 3))
    return network


def test_wrapped_state_dicts_are_opened(tmp_path: Path):
    state = small_resnet().state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pth")
    opened = read_backbone(tmp_path / "wrapped.pth")
    assert opened.keys() == state.keys() and torch.equal(opened["conv1.weight"], state["conv1.weight"])
