"""What a forward pass needs to know of a batch's token ids, found before the batch is on a device.

To look for tokens among ids on a GPU means to wait for it: how many there are decides the shape of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from datasets.instruction import InstructionBatch
from datasets.vocabulary import IGNORED_TOKEN
from datasets.volume.anyres import PatchGeometry
from models.language.answer_loss import AnswerPositions, answer_positions


@dataclass(frozen=True)
class TokenPlaces:
    """Where some tokens of each row stand: rows and columns, (n,) each, row by row, and how many a row has."""

    rows: Tensor
    columns: Tensor
    counts: list[int]

    def states(self, hidden: Tensor) -> Sequence[Tensor]:
        """The tokens' hidden states, (n, width) for each row; hidden: (B, L, width), or of packed sequences.

        All at once: the backward pass of each indexing makes a gradient as large as `hidden`, and row by row there
        would be one for every row.
        """
        return hidden[self.rows, self.columns].split(self.counts)

    def moved(self, row: Tensor, column: Tensor) -> TokenPlaces:
        """The same tokens elsewhere: row and column (B, L) say where the token at each place went to."""
        places = self.rows, self.columns
        return TokenPlaces(row[places], column[places], self.counts)


@dataclass(frozen=True)
class RowLayout:
    """Where the tokens of B rows stand that the losses are about.

    answers: all tokens of answers.  answered: for each row whether it has any.
    segmentations, confidences: the answers' ``<SEG>`` and ``<disease_confidence>``.
    visual: (n,) int64, for each of the rows' n image tokens, in order, which of the tokens of the distinct volumes, end
        to end, it stands for.
    """

    answers: AnswerPositions
    answered: list[bool]
    segmentations: TokenPlaces
    confidences: TokenPlaces
    visual: Tensor


@dataclass(frozen=True)
class RowLayoutRule:
    """Callable that finds the layout of a batch, on the batch's device; picklable, for loader workers.

    segmentation_id, confidence_id: of ``<SEG>`` and ``<disease_confidence>``; vision: tokens a volume has.
    """

    segmentation_id: int
    confidence_id: int
    vision: PatchGeometry

    def __call__(self, batch: InstructionBatch) -> RowLayout:
        lengths = {
            row: sum(prod(self.vision.token_grid(one.patch_grid, one.patches.shape[-1])) for one in volumes)
            for row, volumes in enumerate(batch.volumes)
            if volumes
        }
        return RowLayout(
            answers=answer_positions(batch.labels),
            answered=(batch.labels != IGNORED_TOKEN).any(1).tolist(),
            segmentations=places_of(batch.labels, self.segmentation_id),
            confidences=places_of(batch.labels, self.confidence_id),
            visual=visual_places(batch.volumes_of, lengths).to(batch.labels.device),
        )


def places_of(ids: Tensor, wanted: int) -> TokenPlaces:
    """Where a token stands among ids (B, L)."""
    rows, columns = (ids == wanted).nonzero(as_tuple=True)
    return TokenPlaces(rows, columns, rows.bincount(minlength=len(ids)).tolist())


def visual_places(volumes_of: Sequence[int], lengths: Mapping[int, int]) -> Tensor:
    """`RowLayout.visual`, on the CPU.

    volumes_of: for each row the row whose volumes it asks about.  lengths: visual tokens of each row that has volumes
    of its own, in the order of the rows.
    """
    places = torch.arange(sum(lengths.values())).split(list(lengths.values()))
    ranges = dict(zip(lengths, places, strict=True))
    return torch.cat([torch.arange(0), *(ranges[row] for row in volumes_of if row in ranges)])
