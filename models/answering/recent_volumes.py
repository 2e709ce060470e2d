"""Volumes that are encoded once, and read once by the language model, though several questions in a row are asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datasets.instruction import InstructionSample
from models.answering.familiarity import Familiarity, describe
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume
from models.prompt_prefixes import HeldPrefixes


class RecentEncodings:
    """Encodings of the volumes of the last batch, for those of its volumes that the next batch asks about again.

    prefixes: what the language model has read of these volumes; they go when the encodings go.
    doubts: by the key of every volume that was encoded, in what it is unlike those of training; of a model that knows.
    """

    def __init__(self, model: CTInstruct) -> None:
        self._model = model
        self._familiarity: Familiarity | None = getattr(model, "familiarity", None)
        self.doubts: dict[str, list[str]] = {}
        self.prefixes = HeldPrefixes()
        self._held: dict[str, EncodedVolume] = {}  # by the volume's key

    @torch.inference_mode()
    def encode(self, samples: Sequence[InstructionSample]) -> list[list[EncodedVolume]]:
        """A list a sample.  Each volume is encoded by itself: its encoding must not depend on who shares the batch."""
        asked = {
            key: volume for sample in samples for key, volume in zip(sample.volume_keys, sample.volumes, strict=True)
        }
        # What is not asked for again goes before anything new comes: feature maps of a volume take a gigabyte.
        self._held = {key: self._held[key] for key in asked if key in self._held}
        self.prefixes.keep(self._held.values())
        for key, volume in asked.items():
            if key not in self._held:
                encoded = self._held[key] = self._model.encode_volumes([volume])[0]
                if self._familiarity is not None and key not in self.doubts:
                    self.doubts[key] = self._familiarity.doubts(describe(volume, encoded))
        return [[self._held[key] for key in sample.volume_keys] for sample in samples]
