"""Volumes as an encoder takes them: on the device of its weights, and in their type."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from datasets.volume.anyres import PatchedVolume
from models.encoders.contract import VolumePatches


def encoder_inputs(volumes: Iterable[PatchedVolume], weight: Tensor) -> list[VolumePatches]:
    """Patches, slice marks and grids of volumes of any sizes, on any device.

    weight: of the model; DeepSpeed holds 16-bit weights on CUDA, and the patches follow them.
    """
    return [
        VolumePatches(
            volume.patches.to(weight.device, weight.dtype, non_blocking=True),
            volume.slice_marks.to(weight.device, non_blocking=True),
            volume.patch_grid,
        )
        for volume in volumes
    ]
