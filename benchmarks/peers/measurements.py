"""What is measured, each in a process of its own, and the parts of the comparison that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.peers import encoders, generation, organs
from benchmarks.peers.rows import PeerRow

NNUNET = "nnU-Net"
LABELS = (60, 117)  # as many as a step of pretraining asks for at most, and as nnU-Net's structures


@dataclass(frozen=True)
class Extent:
    """How much is measured.  windows: of nnU-Net's of each network; None for all."""

    quick: bool = False
    windows: int | None = None


Measurement = Callable[[Extent], list[PeerRow]]


def _nnunet(extent: Extent) -> list[PeerRow]:
    return [organs.by_nnunet(extent.quick, extent.windows)]


def _masks(labels: int, extent: Extent) -> list[PeerRow]:
    return [organs.by_masks(extent.quick, labels)]


def _encoder(name: str, extent: Extent) -> list[PeerRow]:
    return [encoders.encoder_row(name, extent.quick)]


def _generation(size: str, extent: Extent) -> list[PeerRow]:
    return generation.generation_rows(size, extent.quick)


def _each(function: Callable[[Any, Extent], list[PeerRow]], names: dict[str, Any]) -> dict[str, Measurement]:
    return {key: partial(function, value) for key, value in names.items()}


PARTS: dict[str, dict[str, Measurement]] = {
    "organs": {NNUNET: _nnunet, **_each(_masks, {f"{labels} masks": labels for labels in LABELS})},
    "encoders": _each(_encoder, {name: name for name in ("2D1D", "ViT3D", "ResNet3D", *encoders.PEERS)}),
    "language": _each(_generation, {"small": "small"}),
    "language135M": _each(_generation, {"135M": "135M"}),
    "language2B": _each(_generation, {"2B": "2B"}),
}
TITLES = {
    "organs": "All organs of a CT of {ct}",
    "encoders": "Encoders, 2,097,152 voxels",
    "language": "Answers of a small language model",
    "language135M": "Answers of a language model of 135M",
    "language2B": "Answers of a language model of 2B",
}
ON_REQUEST = ("language135M", "language2B")  # by --parts alone
NOT_QUICK = ("117 masks", "MONAI ResNet-50, stride 1")
MEASUREMENTS: dict[str, Measurement] = {name: run for part in PARTS.values() for name, run in part.items()}


def title(part: str, extent: Extent) -> str:
    """What a part compares."""
    return TITLES[part].format(ct=organs.name_of(extent.quick))


def names_of(part: str, extent: Extent, nnunet_installed: bool) -> list[str]:
    """The measurements of a part, in the order of its table."""
    left_out = {*(NOT_QUICK if extent.quick else ()), *(() if nnunet_installed else (NNUNET,))}
    return [name for name in PARTS[part] if name not in left_out]
