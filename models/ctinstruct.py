"""CTInstruct: a volume encoder, a projector and a language model; answers are text, masks and disease confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datasets.instruction import InstructionBatch
from datasets.vocabulary import DISEASE_CONFIDENCE, IGNORED_TOKEN, IMAGE, SEGMENTATION, diagnosis_facts, diseases_of
from datasets.volume.anyres import PatchedVolume
from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume, VolumePatches
from models.extensions.batch_statistics import batch_statistics_kept
from models.extensions.packed_attention import use_packed_attention
from models.extensions.shared_prefix import SharedPrefix, shared_prefix
from models.extensions.slice_sampling import sample_slices
from models.language.answer_loss import AnswerPositions, answer_loss, answer_positions
from models.language.diagnosis_heads import DiagnosisHeads, positive_weights
from models.language.loading import token_positions
from models.masks.losses import part_mask_loss, weighted_bce
from models.vision import VisionModel


@dataclass
class InstructionOutput:
    """``loss``: mean over samples of the weighted sum of a sample's losses.  ``metrics``: the losses, unweighted."""

    loss: Tensor
    metrics: dict[str, Tensor]


class CTInstruct(nn.Module):
    """Everything that is saved in one checkpoint; ``forward`` for training, `models.generation` for answers.

    ``aligned_ranks`` is set when several processes train together.  DeepSpeed's ZeRO-2 joins gradients into buckets in
    the order in which they arrive, so each rank must run the same modules in the same order whatever its samples ask
    for; a part that no sample needs is then run on zeros and its result multiplied by 0.

    ``mask_slices``: in training, a mask is decoded on so many slices of its volume; 0 is all.  ``mask_volumes``: and in
    so many of a batch's volumes, whose losses then count for all; 0 is all.  ``length_power``: a sample's language loss
    is the sum over its answer's n tokens divided by n to this power.  1 is the mean, where each finding of a long
    report weighs next to nothing beside a "yes"; 0.5 lies between (Chen et al. 2024, InternVL 2.5).
    ``loss_weights``: of language, diagnosis, mask and query, in a sample's sum; 1 where not given.
    """

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
        self.aligned_ranks = False
        self.mask_slices = 0
        self.mask_volumes = 0
        self._shares_volumes = False
        self.length_power = 1.0
        self.loss_weights: dict[str, float] = {}

    def share_volumes(self) -> None:
        """In training, read a volume's tokens once for all questions; for models of `can_share_prefix` alone."""
        use_packed_attention(self.language_model)
        self._shares_volumes = True

    @property
    def zero3_modules(self) -> tuple[nn.Module, ...]:
        """Whose weights ZeRO-3 shares out over the ranks: the one part that is large, and is run once a batch."""
        return (self.language_model,)

    @property
    def config(self) -> VisionConfig:
        """The vision configuration; the language model's is ``language_model.config``."""
        return self.vision.config

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

    def forward(self, batch: InstructionBatch) -> InstructionOutput:
        """Losses of a batch whose samples may differ in task, size and number of volumes."""
        encoded = self.encode(batch)
        spare = self._spare_volume(encoded) if self.aligned_ranks else None
        answers = answer_positions(batch.labels)
        logits, hidden = self._read(batch, encoded, spare, answers)
        losses = {
            "language_loss": answer_loss(logits, answers),
            "diagnosis_loss": self._diagnosis_losses(hidden, batch),
            "mask_loss": self._mask_losses(hidden, batch, encoded, spare),
            "query_loss": self._query_losses(hidden, batch),
        }
        factors = {name: self.loss_weights.get(name.removesuffix("_loss"), 1.0) for name in losses}
        factors["language_loss"] *= answers.lengths ** (1 - self.length_power)
        loss = sum(factors[name] * values for name, values in losses.items()).mean()
        return InstructionOutput(loss, self._metrics(losses, batch))

    def _read(
        self,
        batch: InstructionBatch,
        encoded: list[list[EncodedVolume]],
        spare: EncodedVolume | None,
        answers: AnswerPositions,
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, vocabulary) of the answers' N tokens, and the last hidden states (B, L, hidden)."""
        shared, options = None, {"attention_mask": batch.attention_mask}
        rows, columns = answers.rows, answers.columns
        if self._shares_volumes:
            shared = shared_prefix(
                batch.input_ids, batch.attention_mask, batch.input_ids == self.image_id, batch.volumes_of
            )
        embeddings, positions = self.embed(batch, encoded, spare, shared)
        if shared is not None:
            rows, columns = shared.group[rows, columns], shared.column[rows, columns]
            # a mask of four axes is taken as it is: transformers builds none of its own, and nothing reads this one
            options = {"attention_mask": embeddings.new_zeros(1, 1, 1, 1), "packed": shared.layout}
        keep, places = columns.unique(return_inverse=True)  # of packed rows, far fewer than a report is long
        output = self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            output_hidden_states=True,
            logits_to_keep=keep,
            use_cache=False,
            **options,
        )
        hidden = output.hidden_states[-1]
        return output.logits[rows, places], hidden if shared is None else shared.unpack(hidden)

    def encode(self, batch: InstructionBatch) -> list[list[EncodedVolume]]:
        """Encode each volume of the batch once, whatever the number of questions about it; a list a row."""
        encoded = iter(self.encode_volumes([volume for row in batch.volumes for volume in row]))
        own = [[next(encoded) for _ in row] for row in batch.volumes]
        return [own[row] for row in batch.volumes_of]

    def encode_volumes(self, volumes: Sequence[PatchedVolume]) -> list[EncodedVolume]:
        """Encode volumes, of any sizes and on any device, as one batch."""
        cast = [VolumePatches(self._cast(volume.patches), volume.slice_marks, volume.patch_grid) for volume in volumes]
        return self.vision.encode_many(cast) if cast else []

    def _cast(self, patches: Tensor) -> Tensor:
        """To the weights' device and type (DeepSpeed holds bf16 weights on CUDA)."""
        weight = self.vision.bridger[0].weight
        return patches.to(weight.device, weight.dtype, non_blocking=True)

    def embed(
        self,
        batch: InstructionBatch,
        encoded: list[list[EncodedVolume]],
        spare: EncodedVolume | None = None,
        shared: SharedPrefix | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, hidden) with visual tokens in place, and rotary positions; packed where rows are shared."""
        ids, image_mask = batch.input_ids, batch.input_ids == self.image_id
        grids = [[self.vision.llm_grid(volume) for volume in row] for row in encoded]
        config = self.language_model.config.get_text_config()
        positions = token_positions(config, batch.attention_mask, image_mask, grids)
        place_of = ids.new_zeros(ids.shape)
        if shared is not None:
            ids, positions = shared.pack(ids), shared.pack_positions(positions)
        # before the visual tokens, so that gradients come in one order whether a rank has volumes or a spare one
        embeddings = self.language_model.get_input_embeddings()(ids)
        visual, places = self._visual_tokens(encoded)
        if visual is not None:
            place_of[image_mask] = places.to(ids.device)
            if shared is not None:
                image_mask, place_of = shared.pack(image_mask), shared.pack(place_of)
            visual = visual.to(embeddings.dtype)[place_of[image_mask]]
            embeddings = embeddings.masked_scatter(image_mask.unsqueeze(-1), visual)
        elif spare is not None:
            embeddings = embeddings + 0 * self.vision.llm_tokens(spare).sum()
        return embeddings, positions

    def _visual_tokens(self, encoded: list[list[EncodedVolume]]) -> tuple[Tensor | None, Tensor]:
        """Tokens of the distinct volumes (T, hidden), None without any; and which of them the rows hold, in order."""
        distinct = {id(volume): volume for row in encoded for volume in row}
        if not distinct:
            return None, torch.zeros(0, dtype=torch.long)
        tokens = [self.vision.llm_tokens(volume) for volume in distinct.values()]
        ranges = dict(zip(distinct, torch.arange(sum(map(len, tokens))).split([*map(len, tokens)]), strict=True))
        return torch.cat(tokens), torch.cat([ranges[id(volume)] for row in encoded for volume in row])

    def _spare_volume(self, encoded: list[list[EncodedVolume]]) -> EncodedVolume:
        """Any volume of the batch, or one slice of zeros, to run the parts on that no sample asks for."""
        for row in encoded:
            if row:
                return row[0]
        c0, c1, _ = self.config.crop_size
        weight = self.vision.bridger[0].weight
        with batch_statistics_kept(self.vision):
            return self.vision.encode(weight.new_zeros(1, c0, c1, 1), weight.new_ones(1, 1), (1, 1, 1))

    def _diagnosis_losses(self, hidden: Tensor, batch: InstructionBatch) -> Tensor:
        """(B,): weighted BCE at the ``<disease_confidence>`` tokens, 0 for rows without targets."""
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        answers = batch.labels == self.confidence_id
        for label_set in diagnosis_facts():
            rows = [r for r, name in enumerate(batch.label_sets) if name == label_set and batch.targets[r] is not None]
            for row in rows:
                logits = self.diagnosis_heads(hidden[row, answers[row]], label_set)
                count = len(logits)
                weights = positive_weights(label_set).to(logits.device)[:count]
                loss = weighted_bce(logits, batch.targets[row][:count], weights)
                losses = _added(losses, row, loss)
            if not rows and self.aligned_ranks:
                idle = hidden.new_zeros(len(diseases_of(label_set)), hidden.shape[-1])
                losses = losses + 0 * self.diagnosis_heads(idle, label_set).sum()
        return losses

    def _mask_losses(
        self,
        hidden: Tensor,
        batch: InstructionBatch,
        encoded: list[list[EncodedVolume]],
        spare: EncodedVolume | None,
    ) -> Tensor:
        """(B,): BCE + Dice at the ``<SEG>`` tokens, 0 for rows without masks or of volumes left out."""
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        answers = batch.labels == self.segmentation_id
        asked: dict[int, list[tuple[int, Tensor, Tensor]]] = {}  # row, queries and targets of each volume, by its id
        volumes: dict[int, EncodedVolume] = {}
        for row, masks in enumerate(batch.masks):
            queries = hidden[row, answers[row]]
            if masks is None or not len(queries):
                continue
            volume = encoded[row][batch.mask_images[row]]
            volumes[id(volume)] = volume
            asked.setdefault(id(volume), []).append((row, queries, masks[: len(queries)]))
        keys, weight = list(asked), 1.0
        if self.training and 0 < self.mask_volumes < len(keys):
            rows = sum(len(questions) for questions in asked.values())
            keys = [keys[i] for i in torch.randperm(len(keys))[: self.mask_volumes].tolist()]
            weight = rows / sum(len(asked[key]) for key in keys)
        for key in keys:  # a volume's features are decoded once for all who ask about it
            questions = asked[key]
            volume, targets = volumes[key], torch.cat([targets for *_, targets in questions])
            if self.training and self.mask_slices:
                volume = sample_slices(volume, targets, self.mask_slices)
            logits = self.vision.decode_parts(volume, torch.cat([queries for _, queries, _ in questions]))
            counts = [len(targets) for *_, targets in questions]
            parts = zip(questions, logits.split(counts, 1), volume.part_masks(targets).split(counts, 1), strict=True)
            for (row, *_), row_logits, row_targets in parts:
                loss = weight * sum(part_mask_loss(row_logits, row_targets))
                losses = _added(losses, row, loss)
        if spare is not None and not asked:
            with batch_statistics_kept(self.vision):
                logits = self.vision.decode_masks(spare.excerpt(), hidden[:1, -1], only_real_slices=False)
            losses = losses + 0 * logits.sum()
        return losses

    def _query_losses(self, hidden: Tensor, batch: InstructionBatch) -> Tensor:
        """(B,): mean squared distance of the queries of ``<SEG>`` from their labels' embeddings, where these are given.

        Pretraining asked the mask decoder with those embeddings.  Far from all of them it answers with nothing, surely,
        and the mask's loss then has next to no gradient to say in which direction the query should go.
        """
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        answers = batch.labels == self.segmentation_id
        for row, targets in enumerate(batch.query_targets):
            states = hidden[row, answers[row]]
            if targets is None or not len(states):
                continue
            queries = self.vision.qwen2biolord(states).float()
            distances = (queries - targets[: len(queries)].float()).square().sum(-1)
            losses = _added(losses, row, distances.mean())
        return losses

    def _metrics(self, losses: dict[str, Tensor], batch: InstructionBatch) -> dict[str, Tensor]:
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


def _added(losses: Tensor, row: int, loss: Tensor) -> Tensor:
    """Losses (B,) with a number added to one row's; a copy, as autograd needs."""
    return losses + loss * F.one_hot(torch.tensor(row, device=losses.device), len(losses))
