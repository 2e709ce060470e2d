"""Batch norms folded into convolutions: the same function, the original untouched."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import UnetrUpBlock
from timm.models.resnet import Bottleneck
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders.folding import folded


def randomise(module: nn.Module) -> nn.Module:
    """Weights and statistics under which every term of the formula matters; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            for value, centre in ((part.weight, 1), (part.bias, 0), (part.running_mean, 0), (part.running_var, 2)):
                value.data = centre + 0.5 * torch.randn(value.shape, generator=generator).clamp(-2, 2)
    return module.eval()


def plain_sequential(dimensions: int) -> nn.Module:
    conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dimensions - 2]
    return nn.Sequential(conv(4, 6, 3, bias=True), norm(6), nn.ReLU(), conv(6, 4, 1, bias=False), norm(4))


def bottleneck() -> nn.Module:
    downsample = nn.Sequential(nn.Conv2d(4, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16))
    return Bottleneck(4, 4, stride=2, downsample=downsample)


@pytest.mark.parametrize(
    ("build", "norms", "shape"),
    [
        (lambda: plain_sequential(2), 2, (3, 4, 9, 7)),
        (lambda: plain_sequential(3), 2, (2, 4, 5, 6, 7)),
        (bottleneck, 4, (2, 4, 8, 8)),
        (lambda: UnetrUpBlock(2, 4, 6, kernel_size=3, upsample_kernel_size=2, norm_name="batch").conv_block, 2, None),
    ],
)
@torch.no_grad()
def test_a_replica_computes_the_same(build, norms, shape):
    module = randomise(build())
    x = torch.randn(shape or (2, 12, 8, 8))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    replica = folded(module)
    assert sum(isinstance(part, _BatchNorm) for part in module.modules()) == norms
    assert not any(isinstance(part, _BatchNorm) for part in replica.modules())
    torch.testing.assert_close(replica(x), module(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_is_not_a_pair_stays_and_is_shared():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    replica = folded(module)
    assert [type(part) for part in replica] == [type(part) for part in module]
    assert replica[1].weight is module[1].weight


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        folded(plain_sequential(2))
