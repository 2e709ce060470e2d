"""CTInstruct: a volume encoder, a projector and a language model; answers are text, masks and disease confidences.

This is the published method alone; `models.extensions.tuning` adds to it from outside, `models.generation` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datasets.instruction import InstructionBatch
from datasets.vocabulary import DISEASE_CONFIDENCE, IGNORED_TOKEN, IMAGE, SEGMENTATION
from datasets.volume.anyres import PatchedVolume
from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume, VolumePatches
from models.language.answer_loss import AnswerPositions, answer_loss, answer_positions
from models.language.diagnosis_heads import DiagnosisHeads, positive_weights
from models.language.loading import token_positions
from models.masks.losses import part_mask_loss, weighted_bce
from models.vision import VisionModel


@dataclass
class InstructionOutput:
    """``loss``: mean over samples of the sum of a sample's losses.  ``metrics``: the losses, named task/part."""

    loss: Tensor
    metrics: dict[str, Tensor]


class CTInstruct(nn.Module):
    """Everything that is saved in one checkpoint; ``forward`` for training."""

    def __init__(
        self, vision: VisionModel, language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.vision = vision
        self.language_model = language_model
        self.diagnosis_heads = DiagnosisHeads(language_model.config.get_text_config().hidden_size)
        self.tokenizer = tokenizer
        self.image_id, self.segmentation_id, self.confidence_id = tokenizer.convert_tokens_to_ids(
            [IMAGE, SEGMENTATION, DISEASE_CONFIDENCE]
        )

    # ---- the forward pass

    def forward(self, batch: InstructionBatch) -> InstructionOutput:
        """Losses of a batch whose samples may differ in task, size and number of volumes."""
        encoded = self.encode(batch)
        embeddings, positions = self.embed(batch, encoded)
        answers = answer_positions(batch.labels)
        logits, hidden = self.read(embeddings, positions, answers, attention_mask=batch.attention_mask)
        losses = {
            "language_loss": answer_loss(logits, answers),
            "diagnosis_loss": self.diagnosis_losses(hidden, batch),
            "mask_loss": self.mask_losses(hidden, batch, encoded),
        }
        return InstructionOutput(reduce(torch.add, losses.values()).mean(), mean_losses(losses, batch))

    def encode(self, batch: InstructionBatch) -> list[list[EncodedVolume]]:
        """Encode each volume of the batch once, whatever the number of questions about it; a list a row."""
        encoded = iter(self.encode_volumes([volume for row in batch.volumes for volume in row]))
        own = [[next(encoded) for _ in row] for row in batch.volumes]
        return [own[row] for row in batch.volumes_of]

    def embed(self, batch: InstructionBatch, encoded: Sequence[Sequence[EncodedVolume]]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, hidden) with visual tokens in place, and rotary positions (3, B, L) or (B, L)."""
        image_mask = batch.input_ids == self.image_id
        embeddings = self.language_model.get_input_embeddings()(batch.input_ids)
        visual, places = self.visual_tokens(batch, encoded)
        if visual is not None:
            visual = visual.to(embeddings.dtype)[places.to(visual.device)]
            embeddings = embeddings.masked_scatter(image_mask.unsqueeze(-1), visual)
        return embeddings, self.positions(batch, encoded)

    def read(
        self, embeddings: Tensor, positions: Tensor, answers: AnswerPositions, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, vocabulary) of the answers' N tokens, and the last hidden states (B, L, hidden)."""
        keep, places = answers.columns.unique(return_inverse=True)  # logits of a whole question are never made
        output = self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            output_hidden_states=True,
            logits_to_keep=keep,
            use_cache=False,
            **options,
        )
        return output.logits[answers.rows, places], output.hidden_states[-1]

    def diagnosis_losses(self, hidden: Tensor, batch: InstructionBatch) -> Tensor:
        """(B,): weighted BCE at the ``<disease_confidence>`` tokens, 0 for rows without targets."""
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        for row in range(len(hidden)):
            losses = self.add_diagnosis_loss(losses, row, hidden, batch)
        return losses

    def add_diagnosis_loss(self, losses: Tensor, row: int, hidden: Tensor, batch: InstructionBatch) -> Tensor:
        """Losses (B,) with that of a row added, where it has targets."""
        targets, label_set = batch.targets[row], batch.label_sets[row]
        if targets is None or label_set is None:
            return losses
        logits = self.diagnosis_heads(hidden[row, batch.labels[row] == self.confidence_id], label_set)
        weights = positive_weights(label_set).to(logits.device)[: len(logits)]
        return added(losses, row, weighted_bce(logits, targets[: len(logits)], weights))

    def mask_losses(
        self, hidden: Tensor, batch: InstructionBatch, encoded: Sequence[Sequence[EncodedVolume]]
    ) -> Tensor:
        """(B,): BCE + Dice at the ``<SEG>`` tokens, 0 for rows without masks."""
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        for row, masks in enumerate(batch.masks):
            queries = hidden[row, batch.labels[row] == self.segmentation_id]
            if masks is not None and len(queries):
                volume = encoded[row][batch.mask_images[row]]
                logits = self.vision.decode_parts(volume, queries)
                bce, dice = part_mask_loss(logits, volume.part_masks(masks[: len(queries)]))
                losses = added(losses, row, bce + dice)
        return losses

    # ---- its parts

    def encode_volumes(self, volumes: Sequence[PatchedVolume]) -> list[EncodedVolume]:
        """Encode volumes, of any sizes and on any device, as one batch."""
        weight = self.vision.bridger[0].weight  # DeepSpeed holds 16-bit weights on CUDA
        cast = [
            VolumePatches(
                volume.patches.to(weight.device, weight.dtype, non_blocking=True),
                volume.slice_marks,
                volume.patch_grid,
            )
            for volume in volumes
        ]
        return self.vision.encode_many(cast) if cast else []

    def visual_tokens(
        self, batch: InstructionBatch, encoded: Sequence[Sequence[EncodedVolume]]
    ) -> tuple[Tensor | None, Tensor]:
        """Tokens of the distinct volumes (T, hidden), None without any; and which of them the rows hold, in order."""
        owners = [row for row in dict.fromkeys(batch.volumes_of) if encoded[row]]
        if not owners:
            return None, torch.zeros(0, dtype=torch.long)
        tokens = {row: torch.cat([self.vision.llm_tokens(volume) for volume in encoded[row]]) for row in owners}
        lengths = [len(own) for own in tokens.values()]
        ranges = dict(zip(owners, torch.arange(sum(lengths)).split(lengths), strict=True))
        places = torch.cat([ranges[row] for row in batch.volumes_of if row in ranges])
        return torch.cat(list(tokens.values())), places

    def positions(self, batch: InstructionBatch, encoded: Sequence[Sequence[EncodedVolume]]) -> Tensor:
        """Rotary positions of the rows' tokens: (3, B, L), or (B, L) for a language model with plain ones."""
        grids = [[self.vision.llm_grid(volume) for volume in row] for row in encoded]
        config = self.language_model.config.get_text_config()
        return token_positions(config, batch.attention_mask, batch.input_ids == self.image_id, grids)

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
MakeModel = Callable[[VisionModel, PreTrainedModel, PreTrainedTokenizerBase], CTInstruct]


def added(losses: Tensor, row: int, loss: Tensor) -> Tensor:
    """Losses (B,) with a number added to one row's; a copy, as autograd needs."""
    return losses + loss * F.one_hot(torch.tensor(row, device=losses.device), len(losses))


def mean_losses(losses: Mapping[str, Tensor], batch: InstructionBatch) -> dict[str, Tensor]:
    """Mean loss of each part over the rows that have it, named task/part so that mixed batches sort themselves."""
    present = {
        "language_loss": (batch.labels != IGNORED_TOKEN).any(1).tolist(),
        "diagnosis_loss": [targets is not None for targets in batch.targets],
        "mask_loss": [masks is not None for masks in batch.masks],
        "query_loss": [targets is not None for targets in batch.query_targets],
    }
    metrics: dict[str, Tensor] = {}
    for name, values in losses.items():
        for task in sorted(set(batch.tasks)):
            rows = [r for r, kind in enumerate(batch.tasks) if kind == task and present[name][r]]
            if rows:
                metrics[f"{task}/{name}"] = values.detach()[rows].mean()
    return metrics
