"""Rows that share a volume go through the language model as packed sequences, and where their tokens then stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct, EncodedRows
from models.extensions.shared_prefix import SharedPrefix, shared_prefix
from models.language.answer_loss import AnswerPositions
from models.language.row_layout import RowLayout, TokenPlaces


@dataclass(frozen=True)
class PackedRows:
    """Rows of a batch as packed sequences (G, K).

    answers, segmentations, confidences, visual: as of `RowLayout`, for the packed sequences.
    """

    shared: SharedPrefix
    answers: AnswerPositions
    segmentations: TokenPlaces
    confidences: TokenPlaces
    visual: Tensor


@dataclass(frozen=True)
class PackedRowLayout(RowLayout):
    """A row layout, and how the rows are packed; None where no two rows can share."""

    packed: PackedRows | None


@dataclass(frozen=True)
class PackedRowLayoutRule:
    """Callable that finds the layout of a batch and packs it; picklable, for loader workers.

    image_id: the token that stands for a visual one.
    """

    rule: Callable[[InstructionBatch], RowLayout]
    image_id: int

    def __call__(self, batch: InstructionBatch) -> PackedRowLayout:
        layout = self.rule(batch)
        return PackedRowLayout(**vars(layout), packed=packed_rows(batch, layout, self.image_id))


def packed_rows(batch: InstructionBatch, layout: RowLayout, image_id: int) -> PackedRows | None:
    """How the rows of a batch are packed, on the batch's device; None where no two rows can share."""
    image_mask = batch.input_ids == image_id
    shared = shared_prefix(batch.input_ids, batch.attention_mask, image_mask, batch.volumes_of)
    if shared is None:
        return None
    place_of = batch.input_ids.new_zeros(batch.input_ids.shape)
    place_of[image_mask] = layout.visual
    visual = shared.pack(place_of)[shared.pack(image_mask)]
    group, column = shared.group, shared.column
    return PackedRows(
        shared=shared,
        answers=layout.answers.moved(group, column),
        segmentations=layout.segmentations.moved(group, column),
        confidences=layout.confidences.moved(group, column),
        visual=visual,
    )


def read_packed(
    model: CTInstruct, batch: InstructionBatch, encoded: EncodedRows, packed: PackedRows
) -> tuple[Tensor, Tensor]:
    """As `CTInstruct.read` of the rows: logits (N, vocabulary) of the answers' N tokens, hidden states (G, K, hidden).

    The language model must take packed sequences, see `packed_attention.use_packed_attention`.
    """
    embeddings, positions = _embed_packed(model, batch, encoded, packed)
    # a mask of four axes is taken as it is: transformers builds none of its own, and nothing reads this one
    mask = embeddings.new_zeros(1, 1, 1, 1)
    layout = packed.shared.layout
    return model.read(embeddings, packed.answers, position_ids=positions, attention_mask=mask, packed=layout)


def _embed_packed(
    model: CTInstruct, batch: InstructionBatch, encoded: EncodedRows, packed: PackedRows
) -> tuple[Tensor, Tensor]:
    """As `input_embeddings`, for packed rows (G, K), which hold a volume's tokens once for all questions about it."""
    ids = packed.shared.pack(batch.input_ids)
    positions = packed.shared.pack_positions(model.positions(batch, encoded))
    embeddings = model.language_model.get_input_embeddings()(ids)
    visual, _ = model.visual_tokens(batch, encoded)  # rows share a beginning only where it holds a volume
    visual = visual.to(embeddings.dtype)[packed.visual]
    return embeddings.masked_scatter((ids == model.image_id).unsqueeze(-1), visual), positions
