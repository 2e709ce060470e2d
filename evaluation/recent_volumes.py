"""Volumes that are read and encoded once, though several questions in a row ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.anyres import PatchedVolume
from datasets.geometry import VolumeGeometry
from datasets.instruction import InstructionSample
from datasets.volume_cache import VolumeLoader
from models.ctinstruct import CTInstruct
from models.encoder_contract import EncodedVolume


class RecentLoader:
    """A `VolumeLoader` that keeps the volumes of the latest batches in memory, `keep` of them."""

    def __init__(self, loader: VolumeLoader, keep: int) -> None:
        self._loader = loader
        self._keep = keep
        self._held: dict[str, tuple[PatchedVolume, VolumeGeometry]] = {}

    def volume(self, path: str | Path) -> tuple[PatchedVolume, VolumeGeometry]:
        """As `VolumeLoader.volume`; the same object again while it is held."""
        key = str(path)
        loaded = self._held.pop(key, None) or self._loader.volume(path)
        self._held[key] = loaded  # the latest stands last
        while len(self._held) > self._keep:
            del self._held[next(iter(self._held))]
        return loaded


class RecentEncodings:
    """Encodings of the volumes of the last batch, for those of its volumes that the next batch asks about again."""

    def __init__(self, model: CTInstruct) -> None:
        self._model = model
        self._held: dict[int, tuple[PatchedVolume, EncodedVolume]] = {}  # by the volume's id; it is held, so it is one

    @torch.inference_mode()
    def encode(self, samples: Sequence[InstructionSample]) -> list[list[EncodedVolume]]:
        """A list a sample.  Each volume is encoded by itself: its encoding must not depend on who shares the batch."""
        asked = {id(volume): volume for sample in samples for volume in sample.volumes}
        # What is not asked for again goes before anything new comes: feature maps of a volume take a gigabyte.
        self._held = {key: self._held[key] for key in asked if key in self._held}
        for key, volume in asked.items():
            if key not in self._held:
                self._held[key] = (volume, self._model.encode_volumes([volume])[0])
        return [[self._held[id(volume)][1] for volume in sample.volumes] for sample in samples]
