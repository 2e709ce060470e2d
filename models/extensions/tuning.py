"""Instruction tuning with what this project adds to the published forward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datasets.instruction import InstructionBatch
from datasets.vocabulary import diagnosis_facts
from models.ctinstruct import CTInstruct, EncodedRows, InstructionOutput, MakeModel, no_losses
from models.encoders.contract import EncodedVolume
from models.extensions.mask_questions import mask_questions, sample_volumes
from models.extensions.packed_attention import use_packed_attention
from models.extensions.packed_rows import PackedRowLayout, PackedRowLayoutRule, read_packed
from models.extensions.query_targets import query_losses
from models.extensions.settings import TuningExtensions
from models.extensions.shared_prefix import can_share_prefix
from models.extensions.slice_sampling import sample_slices
from models.extensions.spare_pass import spare_diagnosis, spare_masks, spare_visual_tokens, spare_volume
from models.language.answer_loss import answer_loss
from models.language.lora import LanguageModel
from models.language.loss_metrics import mean_losses
from models.language.row_layout import RowLayout
from models.masks.losses import part_mask_loss
from models.vision import VisionModel

log = logging.getLogger(__name__)


def tuning_model(extensions: TuningExtensions) -> MakeModel:
    """What builds a CTInstruct of its parts: the published one where nothing is on, else the extended one."""
    return CTInstruct if extensions == TuningExtensions() else partial(ExtendedCTInstruct, extensions=extensions)


class ExtendedCTInstruct(CTInstruct):
    """`CTInstruct` with the extensions that are on in training; `TuningExtensions` names them.

    Its weights are those of `CTInstruct`: a checkpoint of one loads into the other.
    """

    def __init__(
        self,
        vision: VisionModel,
        language_model: LanguageModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        extensions: TuningExtensions,
    ) -> None:
        super().__init__(vision, language_model, tokenizer)
        self.extensions = extensions
        self.shares_volumes = extensions.share_volumes and can_share_prefix(language_model.config.get_text_config())
        if self.shares_volumes:
            use_packed_attention(language_model)
        elif extensions.share_volumes:
            log.warning("this language model's attention cannot share a volume: each question reads it for itself")

    def forward(self, batch: InstructionBatch) -> InstructionOutput:
        """As published, with a spare volume where ranks are aligned, and a weight for each of a sample's losses."""
        layout = self.layout(batch)
        encoded = self.encode(batch)
        spare = spare_volume(self, encoded) if self.extensions.aligned_ranks else None
        packed = layout.packed if isinstance(layout, PackedRowLayout) else None
        if packed is not None:  # rows that share a volume
            logits, hidden = read_packed(self, batch, encoded, packed)
        else:
            embeddings, positions = self._embed_aligned(batch, encoded, spare)
            options = {"position_ids": positions, "attention_mask": batch.attention_mask}
            logits, hidden = self.read(embeddings, layout.answers, **options)
        places = packed or layout
        queries = places.segmentations.states(hidden)
        losses = {
            "language_loss": answer_loss(logits, layout.answers),
            "diagnosis_loss": self.diagnosis_losses(places.confidences.states(hidden), batch),
            "mask_loss": self._mask_losses(queries, hidden, batch, encoded, spare),
        }
        if self.extensions.query_targets:
            losses["query_loss"] = query_losses(self, queries, batch)
        given = self.extensions.loss_weights
        factors: dict[str, Tensor | float] = {name: given.get(name.removesuffix("_loss"), 1.0) for name in losses}
        factors["language_loss"] *= layout.answers.lengths ** (1 - self.extensions.length_power)
        loss = reduce(torch.add, [factors[name] * values for name, values in losses.items()]).mean()
        return InstructionOutput(loss, mean_losses(losses, batch, layout.answered))

    @property
    def layout_rule(self) -> Callable[[InstructionBatch], RowLayout]:
        """As published; with it, how rows that share a volume are packed."""
        rule = super().layout_rule
        return PackedRowLayoutRule(rule, self.image_id) if self.shares_volumes else rule

    def _embed_aligned(
        self, batch: InstructionBatch, encoded: EncodedRows, spare: EncodedVolume | None
    ) -> tuple[Tensor, Tensor]:
        """As `input_embeddings`; a rank without volumes runs the projector on the spare one, as others do."""
        embeddings, positions = self.input_embeddings(batch, encoded)
        if spare is not None and not any(encoded):
            embeddings = embeddings + spare_visual_tokens(self, spare)
        return embeddings, positions

    def diagnosis_losses(self, states: Sequence[Tensor], batch: InstructionBatch) -> Tensor:
        """As published; where ranks are aligned, label set by label set, and its heads run without targets too."""
        if not self.extensions.aligned_ranks:
            return super().diagnosis_losses(states, batch)
        losses = no_losses(states)
        spare = states[0].new_zeros((), dtype=torch.float32)
        for label_set in diagnosis_facts():
            asked = False
            for row, targets in enumerate(batch.targets):
                if targets is not None and batch.label_sets[row] == label_set:
                    losses[row] = self.diagnosis_heads.loss(states[row], targets, label_set)
                    asked = True
            if not asked:
                spare = spare + spare_diagnosis(self, states[0], label_set)
        return torch.stack(losses) + spare

    def _mask_losses(
        self,
        states: Sequence[Tensor],
        hidden: Tensor,
        batch: InstructionBatch,
        encoded: EncodedRows,
        spare: EncodedVolume | None,
    ) -> Tensor:
        """As published, but each volume is decoded once for all rows that ask about it, and maybe in part.

        In training, `mask_volumes` leaves out whole volumes and `mask_slices` leaves out slices of the others.
        """
        losses = no_losses(states)
        asked = mask_questions(states, batch, encoded)
        if spare is not None and not asked:
            return torch.stack(losses) + spare_masks(self, spare, hidden)
        weight = 1.0
        if self.training:
            asked, weight = sample_volumes(asked, self.extensions.mask_volumes)
        for questions in asked:
            volume, targets = questions.volume, torch.cat(questions.targets)
            if self.training and self.extensions.mask_slices:
                volume = sample_slices(volume, targets, self.extensions.mask_slices)
            logits = self.vision.decode_parts(volume, torch.cat(questions.queries))
            counts = [len(masks) for masks in questions.targets]
            parts = zip(
                questions.rows, logits.split(counts, 1), volume.part_masks(targets).split(counts, 1), strict=True
            )
            for row, row_logits, row_targets in parts:
                bce, dice = part_mask_loss(row_logits, row_targets)
                losses[row] = weight * (bce + dice)
        return torch.stack(losses)
