"""The slice network: torchvision's ResNet-50 on single gray slices, with its five feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.resnet import Bottleneck, ResNet, downsample_conv
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.folding import folded
from models.encoders.recompute import recomputed

SLICES_PER_CHUNK = 16  # in evaluation: bounds the activations without costing speed
FOLD_FROM = 4  # slices from which folding the batch norms, a pass over the weights, is repaid


class SliceResNet(nn.Module):
    """The parts of timm's ResNet, under torchvision's parameter names, run so that the feature maps come out.

    `fc` is kept, as it is among the published weights; nothing uses it.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    act1: nn.ReLU
    maxpool: nn.MaxPool2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        # as torchvision does; timm's default would begin with blocks that are mere shortcuts
        network = ResNet(
            cast(Any, Bottleneck),  # timm asks for the class and writes the type of an instance
            config.resnet_layers,
            channels=config.resnet_channels,
            zero_init_last=False,
        )
        for name, part in network.named_children():
            self.add_module(name, part)
        if config.stem_width != self.conv1.out_channels:  # timm's plain stem has one width
            self._set_stem_width(config.stem_width, config.resnet_channels[0])

    def _set_stem_width(self, width: int, planes: int) -> None:
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        output = Bottleneck.expansion * planes
        shortcut = downsample_conv(width, output, kernel_size=1) if width != output else None
        self.layer1[0] = Bottleneck(width, planes, downsample=shortcut)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")  # as timm and torchvision do

    def stem(self, slices: Tensor) -> Tensor:
        """(S, 1, H, W) gray -> (S, stem width, H/2, W/2), the raw first convolution.

        Three equal channels under weights w1, w2, w3 give what one channel gives under w1 + w2 + w3.
        """
        weight = self.conv1.weight.sum(dim=1, keepdim=True)
        # A single channel lies in memory as both layouts say; strides alone tell the convolution which one to give, and
        # turning its large output round afterwards costs more than the convolution.
        slices = slices.to(weight.dtype)[:, 0, :, :, None].permute(0, 3, 1, 2)
        output = F.conv2d(slices, weight, stride=self.conv1.stride, padding=self.conv1.padding)
        return output.contiguous(memory_format=torch.channels_last)

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        """(S, 1, H, W) gray slices -> five maps, of stride 2 (before norm and ReLU), 4, 8, 16 and 32, channels last.

        In training all slices share the batch statistics; in evaluation they are run in chunks.
        """
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        if self.training or torch.is_grad_enabled() or len(slices) < FOLD_FROM:
            return self._pyramid(slices, stages)
        stages = [folded(stage) for stage in stages]
        if len(slices) <= SLICES_PER_CHUNK:
            return self._pyramid(slices, stages)
        maps: list[Tensor] = []
        for start in range(0, len(slices), SLICES_PER_CHUNK):
            chunk = self._pyramid(slices[start : start + SLICES_PER_CHUNK], stages)
            if not maps:  # filled in place: concatenating at the end would need the memory twice
                maps = [_empty_channels_last(len(slices), part) for part in chunk]
            for whole, part in zip(maps, chunk, strict=True):
                whole[start : start + len(part)] = part
        return tuple(maps)

    def _pyramid(self, slices: Tensor, stages: Sequence[nn.Sequential]) -> tuple[Tensor, ...]:
        recompute = self.gradient_checkpointing and self.training
        maps = [self.stem(slices)]
        features = recomputed(recompute, self, lambda x: self.maxpool(self.act1(self.bn1(x))), maps[0])
        for stage in stages:
            for block in stage:
                features = recomputed(recompute, block, block, features)
            maps.append(features)
        return tuple(maps)


def slice_vectors(coarsest: Tensor) -> Tensor:
    """Global average pool of the last map: (S, C, h, w) -> (S, C)."""
    return coarsest.mean(dim=(2, 3))


def _empty_channels_last(rows: int, like: Tensor) -> Tensor:
    return torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
