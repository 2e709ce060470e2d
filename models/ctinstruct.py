"""CTInstruct: a volume encoder, a projector and a language model; answers are text, masks and disease confidences.

This is the published method alone; `models.extensions.tuning` adds to it from outside, `models.generation` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from datasets.instruction import InstructionBatch
from datasets.vocabulary import DISEASE_CONFIDENCE, IMAGE, SEGMENTATION
from datasets.volume.anyres import PatchedVolume
from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume
from models.encoders.inputs import encoder_inputs
from models.language.answer_loss import AnswerPositions, answer_loss
from models.language.diagnosis_heads import DiagnosisHeads
from models.language.loading import token_positions
from models.language.lora import LanguageModel
from models.language.loss_metrics import mean_losses
from models.language.row_layout import RowLayout, RowLayoutRule, visual_places
from models.language.row_positions import RowPositions
from models.language.special_tokens import token_ids
from models.masks.losses import part_mask_loss
from models.vision import VisionModel

EncodedRows = Sequence[Sequence[EncodedVolume]]  # for each row of a batch, the volumes that it asks about


@dataclass
class InstructionOutput:
    """``loss``: mean over samples of the sum of a sample's losses.  ``metrics``: the losses, named task/part."""

    loss: Tensor
    metrics: dict[str, Tensor]


class CTInstruct(nn.Module):
    """Everything that is saved in one checkpoint; ``forward`` for training."""

    def __init__(self, vision: VisionModel, language_model: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.vision = vision
        self.language_model = language_model
        self.diagnosis_heads = DiagnosisHeads(language_model.config.get_text_config().hidden_size)
        self.tokenizer = tokenizer
        self.image_id, self.segmentation_id, self.confidence_id = token_ids(
            tokenizer, (IMAGE, SEGMENTATION, DISEASE_CONFIDENCE)
        )

    # ---- the forward pass

    def forward(self, batch: InstructionBatch) -> InstructionOutput:
        """Losses of a batch whose samples may differ in task, size and number of volumes."""
        layout = self.layout(batch)
        encoded = self.encode(batch)
        embeddings, positions = self.input_embeddings(batch, encoded)
        logits, hidden = self.read(
            embeddings, layout.answers, position_ids=positions, attention_mask=batch.attention_mask
        )
        losses = {
            "language_loss": answer_loss(logits, layout.answers),
            "diagnosis_loss": self.diagnosis_losses(layout.confidences.states(hidden), batch),
            "mask_loss": self.mask_losses(layout.segmentations.states(hidden), batch, encoded),
        }
        loss = reduce(torch.add, losses.values()).mean()  # the three losses of a row become one; then the mean of rows
        return InstructionOutput(loss, mean_losses(losses, batch, layout.answered))

    def encode(self, batch: InstructionBatch) -> list[list[EncodedVolume]]:
        """Encode each volume of the batch once, whatever the number of questions about it; a list a row."""
        encoded = iter(self.encode_volumes([volume for row in batch.volumes for volume in row]))
        own = [[next(encoded) for _ in row] for row in batch.volumes]
        return [own[row] for row in batch.volumes_of]

    def encode_volumes(self, volumes: Sequence[PatchedVolume]) -> list[EncodedVolume]:
        """Encode volumes, of any sizes and on any device, as one batch."""
        inputs = encoder_inputs(volumes, next(self.vision.bridger.parameters()))
        return self.vision.encode_many(inputs) if inputs else []

    def input_embeddings(self, batch: InstructionBatch, encoded: EncodedRows) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, hidden) with visual tokens in place, and rotary positions (3, B, L) or (B, L)."""
        embeddings = self.language_model.get_input_embeddings()(batch.input_ids)
        if any(encoded):  # visual tokens replace the embeddings of image tokens
            visual, places = self.visual_tokens(batch, encoded)
            image_mask = (batch.input_ids == self.image_id).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(image_mask, visual.to(embeddings.dtype)[places.to(visual.device)])
        return embeddings, self.positions(batch, encoded)

    def visual_tokens(self, batch: InstructionBatch, encoded: EncodedRows) -> tuple[Tensor, Tensor]:
        """Tokens (T, hidden) of the distinct volumes, at least one, and which of them the rows hold, in order (n,)."""
        owners = [row for row in dict.fromkeys(batch.volumes_of) if encoded[row]]
        tokens = [torch.cat([self.vision.llm_tokens(volume) for volume in encoded[row]]) for row in owners]
        if isinstance(batch.layout, RowLayout):
            return torch.cat(tokens), batch.layout.visual
        lengths = {row: len(own) for row, own in zip(owners, tokens, strict=True)}
        return torch.cat(tokens), visual_places(batch.volumes_of, lengths)

    def positions(self, batch: InstructionBatch, encoded: EncodedRows) -> Tensor:
        """Rotary positions of the rows' tokens: (3, B, L), or (B, L) for a language model with plain ones."""
        if batch.positions is not None:
            return batch.positions
        grids = [[self.vision.llm_grid(volume) for volume in row] for row in encoded]
        config = self.language_model.config.get_text_config()
        return token_positions(config, batch.attention_mask, batch.input_ids == self.image_id, grids)

    @property
    def position_rule(self) -> RowPositions:
        """What makes `positions` without the model, for an `InstructionCollator`."""
        return RowPositions(self.language_model.config.get_text_config(), self.image_id, self.config)

    def layout(self, batch: InstructionBatch) -> RowLayout:
        """Where the tokens stand that the losses are about: as the collator found it, or found here."""
        return batch.layout if isinstance(batch.layout, RowLayout) else self.layout_rule(batch)

    @property
    def layout_rule(self) -> Callable[[InstructionBatch], RowLayout]:
        """What makes `layout` without the model, for an `InstructionCollator`."""
        return RowLayoutRule(self.segmentation_id, self.confidence_id, self.config)

    def read(self, embeddings: Tensor, answers: AnswerPositions, **options: Any) -> tuple[Tensor, Tensor]:
        """Logits (N, vocabulary) of the answers' N tokens, and the last hidden states (B, L, hidden).

        options: what else the language model is given, among them its positions and attention mask.
        """
        output = self.language_model(
            inputs_embeds=embeddings,
            logits_to_keep=answers.kept,  # those of a whole question are never made
            output_hidden_states=True,
            use_cache=False,
            **options,
        )
        return output.logits[answers.rows, answers.places], output.hidden_states[-1]

    def diagnosis_losses(self, states: Sequence[Tensor], batch: InstructionBatch) -> Tensor:
        """(B,): weighted BCE at the ``<disease_confidence>`` tokens, 0 for rows without targets.

        states: for each row the hidden states of these tokens, (n, width).
        """
        losses = no_losses(states)
        for row, (targets, label_set) in enumerate(zip(batch.targets, batch.label_sets, strict=True)):
            if targets is not None and label_set is not None:
                losses[row] = self.diagnosis_heads.loss(states[row], targets, label_set)
        return torch.stack(losses)

    def mask_losses(self, states: Sequence[Tensor], batch: InstructionBatch, encoded: EncodedRows) -> Tensor:
        """(B,): BCE + Dice at the ``<SEG>`` tokens, 0 for rows without masks.

        states: for each row the hidden states of these tokens, (n, width), which are the queries.
        """
        losses = no_losses(states)
        for row, (masks, queries) in enumerate(zip(batch.masks, states, strict=True)):
            if masks is not None and len(queries):
                volume = encoded[row][batch.mask_images[row]]
                logits = self.vision.decode_parts(volume, queries)
                bce, dice = part_mask_loss(logits, volume.part_masks(masks[: len(queries)]))
                losses[row] = bce + dice  # the mask loss is added here
        return torch.stack(losses)

    # ---- around it

    @property
    def config(self) -> VisionConfig:
        """The vision configuration; the language model's is ``language_model.config``."""
        return self.vision.config

    @property
    def zero3_modules(self) -> tuple[nn.Module, ...]:
        """Whose weights ZeRO-3 shares out over the ranks: the one part that is large, and is run once a batch."""
        return (self.language_model,)

    def train(self, mode: bool = True) -> CTInstruct:
        """As usual, but an encoder that is frozen keeps its batch statistics too."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.vision.encoder.parameters()):
            self.vision.encoder.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory in both halves."""
        self.vision.gradient_checkpointing_enable()
        self.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


# Builds the model of its parts: CTInstruct itself, or what `models.extensions.tuning` puts in its place.
MakeModel = Callable[[VisionModel, LanguageModel, PreTrainedTokenizerBase], CTInstruct]


def no_losses(states: Sequence[Tensor]) -> list[Tensor]:
    """A loss of 0, (), for each row; states, (n, width) of each row, where n may be 0, give the device."""
    return list(states[0].new_zeros(len(states), dtype=torch.float32))
