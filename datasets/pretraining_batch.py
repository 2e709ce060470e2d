"""One micro-step of vision pretraining: volumes of one task and what the objective of its kind compares them with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from datasets.tensor_parts import with_tensors
from datasets.vocabulary import Kind
from datasets.volume.anyres import PatchedVolume


@dataclass
class PretrainingBatch:
    """B volumes of one task.  C is the width of the text encoder, whose embeddings are raw: not yet projected.

    volumes: B, of any grids.
    sample_ids: B names for messages, best the files' paths.

    image_text       text_embeddings (B, C) float32: row i is the report of volume i.
    classification   label_embeddings (n, C) float32: the descriptions of the task's n labels.
                     loss "CE": targets (B,) int64, the index of the label or UNKNOWN_CLASS;
                     loss "BCE": targets (B, n) float32, 0, 1 or NaN (unknown).
    segmentation     query_embeddings: B tensors (n_i, C) float32, one row for each structure asked for, n_i >= 1;
                     masks: B tensors (n_i, X, Y, Z) int8 on the padded grid of volume i: 0, 1 or -1 (padding).

    What a kind has no use for is None or empty.
    """

    kind: Kind
    task: str
    sample_ids: list[str]
    volumes: list[PatchedVolume]
    text_embeddings: Tensor | None = None
    label_embeddings: Tensor | None = None
    targets: Tensor | None = None
    loss: Literal["CE", "BCE"] | None = None
    query_embeddings: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> PretrainingBatch:
        """A copy with every tensor on `device`."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PretrainingBatch:
        """Page-locked copies, which `DataLoader(pin_memory=True)` asks for."""
        return with_tensors(self, Tensor.pin_memory)
