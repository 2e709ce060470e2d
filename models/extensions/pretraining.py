"""Pretraining with what this project adds to the published objectives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.pretraining_batch import PretrainingBatch
from models.encoders.contract import EncodedVolume
from models.extensions.deep_supervision import DeepSupervision
from models.extensions.log_dice import log_dice
from models.extensions.running_centre import RunningCentre
from models.extensions.settings import PretrainingExtensions
from models.extensions.slice_sampling import sample_slices
from models.extensions.token_classification import TokenClassification
from models.masks.losses import by_structure, masked_bce
from models.pretraining import PretrainingModel, PretrainingOutput, classification_loss
from models.text.checks import check_queries
from models.text.contrastive import INITIAL_LABEL_SCALE, INITIAL_TEMPERATURE
from models.vision import VisionModel


def pretraining_model(
    vision: VisionModel,
    extensions: PretrainingExtensions = PretrainingExtensions(),  # noqa: B008 (frozen)
    queue_size: int = 512,
    temperature: float = INITIAL_TEMPERATURE,
    label_scale: float = INITIAL_LABEL_SCALE,
) -> PretrainingModel:
    """The published model where nothing is on, else the extended one; both are described there."""
    if extensions == PretrainingExtensions():
        return PretrainingModel(vision, queue_size, temperature, label_scale)
    return ExtendedPretrainingModel(vision, extensions, queue_size, temperature, label_scale)


class ExtendedPretrainingModel(PretrainingModel):
    """`PretrainingModel` with the extensions that are on; `PretrainingExtensions` names them.

    Raises ValueError where tasks are to be learned by deep supervision alone and it is off.
    """

    def __init__(
        self,
        vision: VisionModel,
        extensions: PretrainingExtensions,
        queue_size: int = 512,
        temperature: float = INITIAL_TEMPERATURE,
        label_scale: float = INITIAL_LABEL_SCALE,
    ) -> None:
        if extensions.deep_only_tasks and not extensions.deep_supervision:
            raise ValueError("tasks without the mask decoder learn by deep supervision, which has no weight")
        # Made before the published parts, and registered before them (below): the order of random numbers and of
        # parameters is that of the runs whose figures the documentation shows.
        deep = DeepSupervision(vision.config, label_scale) if extensions.deep_supervision else None
        of_tokens = TokenClassification(label_scale) if extensions.token_classification else None
        super().__init__(vision, queue_size, temperature, label_scale)
        self.extensions = extensions
        self.deep_supervision, self.token_classification = deep, of_tokens
        self.centre = RunningCentre(vision.config.token_width) if extensions.running_centre else None
        if extensions.prevalence is not None:
            # from zero a large constant in every embedding would be learned first (Lin et al. 2017, Zhai et al. 2023)
            start = torch.tensor([extensions.prevalence]).clamp(1e-4, 1 - 1e-4).logit()
            self.classification_bias = nn.Parameter(start)
        for name in ("image_projection", "text_projection", "contrastive"):
            self._modules[name] = self._modules.pop(name)

    def comparison_parameters(self) -> list[nn.Parameter]:
        """The published ones, and those that compare maps and tokens with texts."""
        bias = [self.classification_bias] if self.extensions.prevalence is not None else []
        parts = [part for part in (self.deep_supervision, self.token_classification) if part is not None]
        return [*super().comparison_parameters(), *bias, *(p for part in parts for p in part.parameters())]

    def pool(self, encoded: Sequence[EncodedVolume]) -> Tensor:
        """Less what all volumes have in common, if the running centre is on."""
        pooled = super().pool(encoded)
        return pooled if self.centre is None else self.centre(pooled)

    def classification_logits(self, scores: Tensor, loss: str) -> Tensor:
        """With the bias of the prevalence in multi-label classification, if it is on."""
        logits = super().classification_logits(scores, loss)
        if self.extensions.prevalence is None or loss != "BCE":
            return logits
        return logits + self.classification_bias.float()

    def classification_loss(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """Also by single tokens, if that is on."""
        output = super().classification_loss(encoded, batch)
        if self.token_classification is None:
            return output
        assert batch.label_embeddings is not None and batch.targets is not None and batch.loss is not None
        tokens = [volume.tokens[volume.valid] for volume in encoded]
        cosines = self.token_scores(torch.cat(tokens), batch.label_embeddings).split([*map(len, tokens)])
        of_tokens = classification_loss(self.token_classification(cosines), batch.targets, batch.loss)
        metrics = {"of_volumes": output.loss.detach(), "of_tokens": of_tokens.detach()}
        loss = output.loss + self.extensions.token_classification * of_tokens
        return PretrainingOutput(loss, output.metrics | metrics)

    def segmentation_loss(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """Tasks without the mask decoder ask maps, tokens and the embedding of each volume what it holds."""
        if batch.task not in self.extensions.deep_only_tasks:
            return super().segmentation_loss(encoded, batch)
        assert self.deep_supervision is not None  # the constructor saw to it
        images = self.embed_encoded(encoded)
        parts = []
        for volume, image, queries, masks in zip(encoded, images, batch.query_embeddings, batch.masks, strict=True):
            check_queries(queries, masks, self.text_width)
            losses = self.deep_supervision(volume, queries, masks, self.token_scores)
            scores = self.label_scores(image[None], queries)[0] * self.classification_scale
            losses["deep_presence"] = self.deep_supervision.presence_loss(scores, masks)
            parts.append(losses)
        return self.mean_of_parts(parts)

    def mask_losses(self, volume: EncodedVolume, queries: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Also those of the encoder's maps and tokens, and the mask decoder's on some slices alone, if these are on."""
        check_queries(queries, masks, self.text_width)
        losses: dict[str, Tensor] = {}
        if self.deep_supervision is not None:
            similarity = self.token_scores if self.extensions.deep_tokens else None
            losses = self.deep_supervision(volume, queries, masks, similarity)
        if self.training and self.extensions.mask_slices:
            volume = sample_slices(volume, masks, self.extensions.mask_slices)
        return losses | super().mask_losses(volume, queries, masks)

    def mask_terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """With the logarithm of Dice, if that is on."""
        if self.training and self.extensions.log_dice:
            return masked_bce(*by_structure(logits, target)), log_dice(logits, target)
        return super().mask_terms(logits, target)

    def weight_of(self, loss: str) -> float:
        """Deep supervision has a weight of its own, and the cross-entropy of the mask decoder's masks."""
        own = {"mask_bce": self.extensions.mask_bce_weight}
        return self.extensions.deep_supervision if loss.startswith("deep") else own.get(loss, super().weight_of(loss))

    def token_scores(self, tokens: Tensor, label_embeddings: Tensor) -> Tensor:
        """Cosine similarities (..., n) of tokens (..., C) and the text encoder's (n, text width), as `label_scores`."""
        if self.centre is not None:
            tokens = tokens - self.centre.mean.to(tokens)
        projected = F.normalize(self.image_projection(tokens.to(self.image_projection.weight.dtype)).float(), dim=-1)
        return projected @ self.embed_texts(label_embeddings).T
