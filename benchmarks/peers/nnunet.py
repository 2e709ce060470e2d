"""An nnU-Net of TotalSegmentator's size: its plan, its network and its sliding windows.

Facts of TotalSegmentator 2 (Wasserthal et al. 2023), task `total` at full resolution: voxels of 1.5 mm, five networks
of one fold each, 117 structures, no mirroring.  Of nnU-Net 2 (Isensee et al. 2021): windows of 128 voxels, half of
which overlap, weighed by a Gaussian of an eighth of their edge; logits are summed in fp16; the largest one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor, nn

PACKAGE = "dynamic_network_architectures"
MISSING = (
    "nnU-Net's rows are left out: python -m pip install --no-deps -r benchmarks/peers/requirements.txt "
    "(dynamic-network-architectures)"
)
GAUSSIAN = 1 / 8  # standard deviation, of a window's edge


@dataclass(frozen=True)
class NnUNetPlan:
    """What nnU-Net plans: voxels (mm), window (voxels), channels of each stage, and the structures of each network."""

    spacing: float = 1.5
    window: tuple[int, int, int] = (128, 128, 128)
    channels: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    convolutions: int = 2
    structures: tuple[int, ...] = (24, 26, 18, 23, 26)  # organs, vertebrae, heart and vessels, muscles, ribs


TOTAL_SEGMENTATOR = NnUNetPlan()


def installed() -> bool:
    """Whether nnU-Net's networks can be had."""
    return find_spec(PACKAGE) is not None


def build_network(plan: NnUNetPlan, structures: int) -> nn.Module:
    """nnU-Net's own PlainConvUNet with random weights: (1, 1, *window) -> logits (1, 1 + structures, *window)."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = len(plan.channels)
    return PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=plan.channels,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=plan.convolutions,
        num_classes=1 + structures,
        n_conv_per_stage_decoder=plan.convolutions,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()


def on_grid(voxels: Tensor, spacing: Sequence[float], plan: NnUNetPlan) -> Tensor:
    """A CT (H, W, D) of a spacing in mm on the plan's voxels -> (h, w, d), padded with zeros to a window at least."""
    shape = [max(1, round(size * step / plan.spacing)) for size, step in zip(voxels.shape, spacing, strict=True)]
    resized = F.interpolate(voxels[None, None], shape, mode="trilinear")[0, 0]
    lacking = [max(0, edge - size) for edge, size in zip(plan.window, shape, strict=True)]
    return F.pad(resized, [amount for lack in reversed(lacking) for amount in (lack // 2, lack - lack // 2)])


def to_source(labels: Tensor, shape: Sequence[int], spacing: Sequence[float], plan: NnUNetPlan) -> Tensor:
    """A label map on the grid of `on_grid` -> the source's (H, W, D), nearest, without the padding."""
    sizes = [max(1, round(size * step / plan.spacing)) for size, step in zip(shape, spacing, strict=True)]
    begin = [(have - size) // 2 for have, size in zip(labels.shape, sizes, strict=True)]
    inner = labels[tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))]
    return F.interpolate(inner[None, None], tuple(shape), mode="nearest")[0, 0]


def windows_of(shape: Sequence[int], window: tuple[int, int, int]) -> list[tuple[slice, ...]]:
    """Windows that cover a grid at least as large as one, half of each in the next."""
    return dense_patch_slices(shape, window, [edge // 2 for edge in window])


class LogitSums(NamedTuple):
    """Weighed logits (channels, h, w, d) and their weights' sum (h, w, d), whose quotient is the mean, and the weights
    of one window; all fp16.  Where no window reached, both sums are 0."""

    logits: Tensor
    weight: Tensor
    of_window: Tensor


def empty_sums(voxels: Tensor, window: tuple[int, int, int], channels: int) -> LogitSums:
    """Sums of no window for a CT (h, w, d)."""
    of_window = compute_importance_map(window, mode="gaussian", sigma_scale=GAUSSIAN, device=voxels.device).half()
    logits = torch.zeros((channels, *voxels.shape), dtype=torch.half, device=voxels.device)
    return LogitSums(logits, torch.zeros(tuple(voxels.shape), dtype=torch.half, device=voxels.device), of_window)


def add_logits(
    network: Callable[[Tensor], Tensor], voxels: Tensor, places: Sequence[tuple[slice, ...]], sums: LogitSums
) -> None:
    """Add what the network says of the windows of (h, w, d)."""
    for place in places:
        logits = network(voxels[place][None, None])[0].half()
        sums.logits[(slice(None), *place)] += logits * sums.of_window
        sums.weight[place] += sums.of_window


def offsets_of(plan: NnUNetPlan) -> Iterator[tuple[int, int]]:
    """For each network, its structures and what its labels are counted on from in the map of all."""
    begin = 0
    for structures in plan.structures:
        yield structures, begin
        begin += structures
