"""Tiny models of all three encoders, and volumes for them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import torch

from models.configuration import VisionConfig, vision_preset
from models.encoders.contract import VolumePatches
from models.vision import VisionModel
from tests.vision_samples import randomise

CUBES = ("ViT3D", "ResNet3D")
DEPTH = {"2D1D": 8, "ViT3D": 96, "ResNet3D": 96}
MARGIN = {"2D1D": 3, "ViT3D": 40, "ResNet3D": 40}  # padding slices at either end of the test volumes


def tiny_config(encoder: str) -> VisionConfig:
    """Three different sizes along the three axes, so that none can stand for another."""
    config = replace(vision_preset("tiny", encoder), crop_size=(32, 64, DEPTH[encoder]), query_width=100, query_heads=4)
    return replace(config, vit_width=32, vit_depth=3, vit_heads=2, resnet_channels=(8, 8, 16, 16))


def tiny_vision(encoder: str) -> VisionModel:
    torch.manual_seed(0)
    with torch.no_grad():
        return randomise(VisionModel(tiny_config(encoder))).eval()


@cache
def model_of(encoder: str) -> VisionModel:
    """One for all tests that do not change it."""
    return tiny_vision(encoder)


def volume_of(encoder: str, grid=(2, 1, 2), depth: int | None = None, seed: int = 1) -> VolumePatches:
    """Random voxels with padding slices at both ends along z."""
    config = tiny_config(encoder)
    depth = depth or config.crop_size[2]
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(prod(grid), *config.crop_size[:2], depth, generator=generator)
    marks = torch.ones(grid[0] * depth)
    if depth > 1:
        marks[: MARGIN[encoder]] = 0
        marks[-MARGIN[encoder] :] = 0
    marks = marks.view(grid[0], depth).repeat_interleave(grid[1] * grid[2], dim=0)
    return VolumePatches(patches * marks[:, None, None, :], marks, grid)
