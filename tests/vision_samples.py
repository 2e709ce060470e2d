"""A tiny vision model with random weights, volumes for it, and how near two results have to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.encoders.contract import VolumePatches
from models.vision import VisionModel
from tests.tiny_model import VISION

TINY = VISION


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Random scales, shifts and statistics, so that none of them is a neutral 0 or 1."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif name.endswith(("gamma", "scale")) or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(1 + 0.2 * noise)
        elif name.endswith(("bias", "running_mean")):
            tensor.copy_(0.1 * noise)
    return module


@pytest.fixture(scope="module")
def vision_model() -> VisionModel:
    """In evaluation mode, always the same weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        return randomise(VisionModel(TINY)).eval()


def padded_volume(grid: tuple[int, int, int] = (2, 2, 3), depth: int = 4, seed: int = 1) -> VolumePatches:
    """Random patches whose first two and last slice along z are padding."""
    z, x, y = grid
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(z * x * y, *TINY.crop_size[:2], depth, generator=generator)
    marks = torch.ones(z, x * y, depth)
    marks[0, :, :2] = 0
    marks[-1, :, -1] = 0
    marks = marks.view(z * x * y, depth)
    return VolumePatches(patches * marks[:, None, None, :], marks, grid)


def assert_close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Equal up to a share of the standard deviation of `expected`."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= relative * expected.std()
