"""Rows that share a volume go through the language model as packed sequences, and their hidden states come back."""

from __future__ import annotations

from torch import Tensor

from datasets.instruction import InstructionBatch
from models.ctinstruct import CTInstruct, EncodedRows
from models.extensions.shared_prefix import SharedPrefix
from models.language.answer_loss import AnswerPositions


def read_packed(
    model: CTInstruct, batch: InstructionBatch, encoded: EncodedRows, shared: SharedPrefix, answers: AnswerPositions
) -> tuple[Tensor, Tensor]:
    """As `CTInstruct.read` of the rows: logits (N, vocabulary) of the answers' N tokens, hidden states (B, L, hidden).

    The language model must take packed sequences, see `packed_attention.use_packed_attention`.
    """
    embeddings, positions = _embed_packed(model, batch, encoded, shared)
    # a mask of four axes is taken as it is: transformers builds none of its own, and nothing reads this one
    mask = embeddings.new_zeros(1, 1, 1, 1)
    packed = answers.moved(shared.group, shared.column)
    logits, hidden = model.read(embeddings, packed, position_ids=positions, attention_mask=mask, packed=shared.layout)
    return logits, shared.unpack(hidden)


def _embed_packed(
    model: CTInstruct, batch: InstructionBatch, encoded: EncodedRows, shared: SharedPrefix
) -> tuple[Tensor, Tensor]:
    """As `input_embeddings`, for packed rows (G, K), which hold a volume's tokens once for all questions about it."""
    image_mask = batch.input_ids == model.image_id
    positions = shared.pack_positions(model.positions(batch, encoded))
    embeddings = model.language_model.get_input_embeddings()(shared.pack(batch.input_ids))
    visual, places = model.visual_tokens(batch, encoded)  # rows share a beginning only where it holds a volume
    place_of = batch.input_ids.new_zeros(batch.input_ids.shape)
    place_of[image_mask] = places.to(place_of.device)
    image_mask, place_of = shared.pack(image_mask), shared.pack(place_of)
    visual = visual.to(embeddings.dtype)[place_of[image_mask]]
    return embeddings.masked_scatter(image_mask.unsqueeze(-1), visual), positions
