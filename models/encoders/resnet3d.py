"""ResNet3D, an ablation encoder: ResNet-50 with 3x3x3 convolutions (MONAI's, after Hara et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.contract import VolumeEncoder, VolumePatches, as_grid
from models.encoders.cubes import EncodedCubes, cells_with_content, voxel_cubes
from models.encoders.recompute import recomputed

PATCHES_PER_CHUNK = 2  # in evaluation: bounds the activations without costing speed


class CubeResNet(nn.Module):
    """The parts of MONAI's ResNet, whose parameters are named as torchvision's, run so that its maps come out."""

    conv1: nn.Conv3d
    bn1: nn.BatchNorm3d
    act: nn.ReLU
    maxpool: nn.MaxPool3d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        network = ResNet(
            "bottleneck",
            list(config.resnet_layers),
            list(config.resnet_channels),
            n_input_channels=1,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        for name, part in network.named_children():
            self.add_module(name, part)

    def forward(self, voxels: Tensor) -> tuple[Tensor, ...]:
        """(P, 1, X, Y, Z) -> five maps, of stride 2 (after norm and ReLU), 4, 8, 16 and 32.

        In training all patches share the batch statistics; in evaluation they are run in chunks.
        """
        if self.training or torch.is_grad_enabled():
            return self._pyramid(voxels)
        chunks = [self._pyramid(chunk) for chunk in voxels.split(PATCHES_PER_CHUNK)]
        return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))

    def _pyramid(self, voxels: Tensor) -> tuple[Tensor, ...]:
        recompute = self.gradient_checkpointing and self.training
        features = recomputed(recompute, self, self._stem, voxels)
        maps = [features]
        features = self.maxpool(features)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                features = recomputed(recompute, block, block, features)
            maps.append(features)
        return tuple(maps)

    def _stem(self, voxels: Tensor) -> Tensor:
        features = self.conv1(voxels.to(self.conv1.weight.dtype))
        return self.act(self.bn1(features.contiguous(memory_format=torch.channels_last_3d)))


class EncoderResNet3D(VolumeEncoder):
    """Each patch is encoded on its own; its tokens are the cells of the coarsest map, one for 32x32x32 voxels."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet3D = CubeResNet(config)

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep only the inputs of the ResNet blocks for the backward pass."""
        self.resnet3D.gradient_checkpointing = enabled

    def encode_many(self, volumes: Sequence[VolumePatches]) -> list[EncodedCubes]:
        """Encode volumes of any grids; patches of equal depth go through the network as one batch.

        Raises ValueError where a volume's shapes do not fit.
        """
        device = self.resnet3D.conv1.weight.device
        cubes = [voxel_cubes(volume, self.config, device) for volume in volumes]
        encoded: dict[int, EncodedCubes] = {}
        for depth in dict.fromkeys(voxels.shape[-1] for voxels, _, _ in cubes):
            members = [index for index, (voxels, _, _) in enumerate(cubes) if voxels.shape[-1] == depth]
            maps = self.resnet3D(torch.cat([cubes[index][0] for index in members]))
            parts = zip(*(level.split([len(cubes[index][0]) for index in members]) for level in maps), strict=True)
            for index, skips in zip(members, parts, strict=True):
                _, marks, slice_marks = cubes[index]
                x, y, z = skips[-1].shape[2:]
                encoded[index] = EncodedCubes(
                    tokens=rearrange(skips[-1], "p c x y z -> p (z x y) c"),
                    valid=cells_with_content(marks, (z, x, y)),
                    skips=skips,
                    slice_marks=slice_marks,
                    patch_grid=as_grid(volumes[index].patch_grid),
                )
        return [encoded[index] for index in range(len(volumes))]
