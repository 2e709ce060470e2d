"""Rotary positions of a batch before it is on a device, for what makes batches in processes beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig

from datasets.volume.anyres import PatchedVolume, PatchGeometry
from models.language.loading import token_positions


@dataclass(frozen=True)
class RowPositions:
    """Callable that gives the positions of token ids; picklable, for loader workers.

    config: of the language model; image_id: the token that stands for a visual one; vision: tokens a volume has.
    """

    config: PreTrainedConfig
    image_id: int
    vision: PatchGeometry

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, volumes: Sequence[Sequence[PatchedVolume]]) -> Tensor:
        """ids and mask (B, L), and each row's volumes -> (3, B, L), or (B, L) for a model with plain positions."""
        grids = [
            [self.vision.token_grid(volume.patch_grid, volume.patches.shape[-1]) for volume in row] for row in volumes
        ]
        return token_positions(self.config, attention_mask, input_ids == self.image_id, grids)
