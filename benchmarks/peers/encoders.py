"""Encoders at equal input, 2,097,152 voxels: this project's three, SwinUNETR's and ResNet-50 of MONAI.

Each gives all of its feature maps, and the backward pass is of their mean squares, in training mode and without
checkpointing.  Forward alone is in evaluation mode.  Multiply-adds are of the forward pass, half of what torch counts.
MONAI's ResNet-50 gives a pooled vector; its maps are taken where they arise, the same five as our ResNet3D's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from monai.networks.nets.resnet import resnet50
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from benchmarks.measure import best_seconds, count_gflop, device, peak_gib, precision
from benchmarks.peers.rows import PeerRow
from benchmarks.segmentation_peer.network import parameter_count
from models.configuration import VisionConfig, vision_preset
from models.encoders.contract import VolumePatches
from models.vision import ENCODERS

Maps = Sequence[Tensor]
Contestant = tuple[nn.Module, Callable[[], Maps]]  # a network, and a forward pass that gives its feature maps

LONG_SECONDS = 5.0  # beside which a first call's own work does not count
RESNET_MAPS = ("act", "layer1", "layer2", "layer3", "layer4")  # modules that give the maps of stride 2 to 32
PEERS = ("MONAI SwinUNETR", "MONAI ResNet-50", "MONAI ResNet-50, stride 1")


def ours(config: VisionConfig) -> Contestant:
    """One of the project's encoders on one patch of its own shape."""
    encoder = ENCODERS[config.encoder].encoder(config)
    patches = torch.randn(1, *config.crop_size, device=device(), dtype=precision())
    volume = VolumePatches(patches, torch.ones(1, config.crop_size[2], device=device()), (1, 1, 1))

    def forward() -> Maps:
        encoded = encoder.encode_many([volume])[0]
        return [encoded.tokens, *encoded.skips]

    return encoder, forward


def peer(name: str, edge: int) -> Contestant:
    """One of MONAI's, with the widths that MONAI gives it, on a cube.

    ResNet-50 is measured with the first stride of 2 that ResNet3D and MedicalNet have, and with MONAI's own of 1.
    """
    cube = torch.randn(1, 1, edge, edge, edge, device=device(), dtype=precision())
    if name == "MONAI SwinUNETR":
        swin: nn.Module = SwinUNETR(in_channels=1, out_channels=1, feature_size=48).swinViT
        return swin, lambda: list(swin(cube))
    stride = 1 if name.endswith("stride 1") else 2
    network = resnet50(spatial_dims=3, n_input_channels=1, feed_forward=False, conv1_t_stride=stride)
    maps: list[Tensor] = []
    for module in RESNET_MAPS:
        network.get_submodule(module).register_forward_hook(lambda _module, _inputs, output: maps.append(output))

    def forward() -> Maps:
        maps.clear()
        network(cube)
        return list(maps)

    return network, forward


def contestant(name: str, size: str = "full") -> Contestant:
    """A peer by its name in `PEERS`, or one of our encoders of a preset by its own; all see as many voxels."""
    if name not in PEERS:
        return ours(vision_preset(size, name))
    edge = vision_preset(size, "ViT3D").crop_size[0]
    return peer(name, edge)


def seconds_of(function: Callable[[], Any], quick: bool) -> float:
    """Of the first call, and where that is short, the shortest of three."""
    first = best_seconds(function, 1, warm_up=False)
    return first if quick or first > LONG_SECONDS else min(first, best_seconds(function, 2, warm_up=False))


def encoder_row(name: str, quick: bool, size: str = "full") -> PeerRow:
    """Time, memory and size of an encoder; quick: one pass of each kind."""
    torch.manual_seed(0)
    network, forward = contestant(name, size)
    network = network.to(device(), precision())

    def forward_and_backward() -> None:
        torch.stack([maps.float().square().mean() for maps in forward()]).sum().backward()
        network.zero_grad(set_to_none=True)

    network.eval()
    with torch.inference_mode():
        figures = {"forward": seconds_of(forward, quick), "peak_gib": peak_gib()}
    network.train()
    figures |= {"both": seconds_of(forward_and_backward, quick), "peak_both": peak_gib()}
    figures["parameters"] = parameter_count(network) / 1e6
    network.eval()
    with torch.inference_mode():
        figures["multiply_adds"] = count_gflop(partial(forward)) / 2
    mine = name not in PEERS
    voxels = prod(vision_preset(size, name if mine else "ViT3D").crop_size)
    return PeerRow(f"{voxels:,} voxels", f"ours, {name}" if mine else name, mine, figures)
