"""Multi-granular vision pretraining: one encoder learns from reports, from disease labels and from masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.pretraining_batch import PretrainingBatch
from datasets.vocabulary import UNKNOWN_CLASS
from datasets.volume.anyres import PatchedVolume
from models.encoders.hybrid_2d1d import EncodedVolume, VolumePatches
from models.extensions.deep_supervision import DeepSupervision
from models.extensions.slice_sampling import sample_slices
from models.extensions.token_classification import TokenClassification
from models.masks.losses import part_mask_loss, weighted_bce
from models.parameters import freeze_unused
from models.text.contrastive import INITIAL_LABEL_SCALE, LARGEST_SCALE, ContrastiveLoss, bounded_exp
from models.vision import VisionModel


@dataclass
class PretrainingOutput:
    """loss: the mean over the batch.  metrics: its parts, for logs."""

    loss: Tensor
    metrics: dict[str, Tensor]


class PretrainingModel(nn.Module):
    """The vision model and what pretraining adds to it: two projections to a common space and three objectives.

    Text embeddings are those of the frozen text encoder, of width `vision.config.query_width`, since they are the mask
    decoder's queries too; the common space has the same width.

    A task uses some of the parameters and leaves others without a gradient.  That is right with ZeRO-2 as long as all
    ranks have the same task at the same micro-step.  The parts that only a language model needs are not trained.
    `mask_slices`: in training, masks are decoded on so many slices of a volume; 0 is all.  `deep_weight`: of deep
    supervision in the loss of segmentation; 0 leaves it out.  `deep_only`: tasks of segmentation that the mask decoder
    has no part in, but the tokens and the embedding of the volume have.  `token_weight`: of `TokenClassification` in
    the loss of classification; 0 leaves it out.
    """

    def __init__(
        self, vision: VisionModel, queue_size: int = 512, deep_weight: float = 0.0, token_weight: float = 0.0
    ) -> None:
        super().__init__()
        width = vision.config.query_width
        self.vision = vision
        self.mask_slices = 0
        self.deep_weight = deep_weight
        self.deep_supervision = DeepSupervision(vision.config) if deep_weight else None
        self.deep_only: frozenset[str] = frozenset()
        self.token_weight = token_weight
        self.token_classification = TokenClassification() if token_weight else None
        self.image_projection = nn.Linear(vision.config.token_width, width)
        self.text_projection = nn.Linear(width, width)
        # Texts begin in the text encoder's own space.  Random biases would give all texts, and all volumes, a common
        # part as large as what tells them apart, and the first thing learned would be to give up the latter.
        nn.init.eye_(self.text_projection.weight)
        nn.init.normal_(self.image_projection.weight, std=vision.config.token_width**-0.5)  # as in CLIP
        nn.init.zeros_(self.text_projection.bias)
        nn.init.zeros_(self.image_projection.bias)
        self.centre = RunningCentre(vision.config.token_width)
        self.contrastive = ContrastiveLoss(width, queue_size)
        self.classification_log_scale = nn.Parameter(torch.tensor([INITIAL_LABEL_SCALE]).log())
        self.classification_bias = nn.Parameter(torch.zeros(1))
        vision.bridger.requires_grad_(False)
        vision.qwen2biolord.requires_grad_(False)
        freeze_unused(self)

    @torch.no_grad()
    def start_from_prevalence(self, share: float) -> None:
        """Begin multi-label classification at a probability of `share`, that of a positive label in the data.

        Without it the first thing learned is a large constant in every embedding (Lin et al. 2017, Zhai et al. 2023).
        """
        self.classification_bias.fill_(torch.tensor(share).clamp(1e-4, 1 - 1e-4).logit())

    def comparison_parameters(self) -> list[nn.Parameter]:
        """What compares maps, tokens and volumes with texts: the projections to them, and scales and biases of logits.

        The texts' own projection is not among them: it begins as the identity, and need not move much.
        """
        scales = [self.contrastive.log_scale, self.classification_log_scale, self.classification_bias]
        parts = [self.image_projection, self.deep_supervision, self.token_classification]
        return [*scales, *(parameter for part in parts if part is not None for parameter in part.parameters())]

    @property
    def text_width(self) -> int:
        """Width of the text encoder's embeddings."""
        return self.vision.config.query_width

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory in training."""
        self.vision.gradient_checkpointing_enable()

    def forward(self, batch: PretrainingBatch) -> PretrainingOutput:
        """The loss of a batch of any of the three kinds."""
        encoded = self.encode(batch.volumes)
        if batch.kind == "segmentation":
            return self._segmentation(encoded, batch)
        images = self.embed_encoded(encoded)
        if batch.kind == "image_text":
            self._check_width(batch.text_embeddings)
            output = self.contrastive(images, batch.text_embeddings, self.embed_texts)
            metrics = {"accuracy": output.accuracy, "scale": self.contrastive.scale.detach()}
            return PretrainingOutput(output.loss, metrics)
        if batch.kind == "classification":
            return self._classification(encoded, images, batch)
        raise ValueError(f"a batch of kind {batch.kind!r}; known are image_text, classification and segmentation")

    def encode(self, volumes: Sequence[PatchedVolume]) -> list[EncodedVolume]:
        """Encode volumes of any grids as one batch, on the weights' device and in their type."""
        weight = self.image_projection.weight
        return self.vision.encode_many(
            [
                VolumePatches(
                    volume.patches.to(weight.device, weight.dtype, non_blocking=True),
                    volume.slice_marks.to(weight.device, non_blocking=True),
                    volume.patch_grid,
                )
                for volume in volumes
            ]
        )

    def embed_encoded(self, encoded: Sequence[EncodedVolume]) -> Tensor:
        """-> (B, width) float32 of length 1: the projected mean of each volume's tokens outside the padding.

        What all volumes have in common is taken off before (`RunningCentre`).
        """
        pooled = self.centre(torch.stack([masked_mean(volume.tokens, volume.valid) for volume in encoded]))
        projected = self.image_projection(pooled.to(self.image_projection.weight.dtype))
        return F.normalize(projected.float(), dim=-1)

    def embed_volumes(self, volumes: Sequence[PatchedVolume]) -> Tensor:
        """Volumes -> (B, width) float32 of length 1, to be compared with `embed_texts` by a dot product."""
        return self.embed_encoded(self.encode(volumes))

    def embed_texts(self, embeddings: Tensor) -> Tensor:
        """The text encoder's (n, text width) -> (n, width) float32 of length 1 in the space of `embed_volumes`."""
        weight = self.text_projection.weight
        return F.normalize(self.text_projection(embeddings.to(weight)).float(), dim=-1)

    def label_scores(self, volume_embeddings: Tensor, label_embeddings: Tensor) -> Tensor:
        """Cosine similarities (B, n) of `embed_volumes` (B, width) and the text encoder's (n, text width).

        They rank volumes for each label, trained for or not: zero-shot diagnosis.
        """
        self._check_width(label_embeddings)
        return volume_embeddings @ self.embed_texts(label_embeddings).T

    def classification_logits(self, scores: Tensor, loss: str) -> Tensor:
        """Of `label_scores` (B, n): to go through a softmax over the labels ("CE") or a sigmoid for each ("BCE")."""
        logits = scores * self.classification_scale
        return logits + self.classification_bias.float() if loss == "BCE" else logits

    @property
    def classification_scale(self) -> Tensor:
        """Learned; at most as large as the contrastive one; without an axis."""
        return bounded_exp(self.classification_log_scale[0].float(), LARGEST_SCALE)

    def _classification(
        self, encoded: Sequence[EncodedVolume], images: Tensor, batch: PretrainingBatch
    ) -> PretrainingOutput:
        logits = self.classification_logits(self.label_scores(images, batch.label_embeddings), batch.loss)
        loss = classification_loss(logits, batch.targets, batch.loss)
        metrics = {"scale": self.classification_scale.detach()}
        if self.token_classification is not None:
            tokens = [volume.tokens[volume.valid] for volume in encoded]
            cosines = self._token_scores(torch.cat(tokens), batch.label_embeddings).split([*map(len, tokens)])
            of_tokens = classification_loss(self.token_classification(cosines), batch.targets, batch.loss)
            metrics |= {"of_volumes": loss.detach(), "of_tokens": of_tokens.detach()}
            loss = loss + self.token_weight * of_tokens
        return PretrainingOutput(loss, metrics)

    def _segmentation(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        alone = batch.task in self.deep_only
        images = self.embed_encoded(encoded) if alone else [None] * len(encoded)
        parts: list[dict[str, Tensor]] = []
        for volume, image, queries, masks in zip(encoded, images, batch.query_embeddings, batch.masks, strict=True):
            if not len(queries) or len(queries) != len(masks):
                raise ValueError(f"{len(queries)} structures and {len(masks)} masks: as many are needed, at least one")
            self._check_width(queries)
            losses: dict[str, Tensor] = {}
            if self.deep_supervision is not None:
                similarity = self._token_scores if alone else None
                losses = self.deep_supervision(volume, queries, masks, similarity)
            if alone:
                scores = self.label_scores(image[None], queries)[0] * self.classification_scale
                losses["deep_presence"] = self.deep_supervision.presence_loss(scores, masks)
            else:
                if self.training and self.mask_slices:
                    volume = sample_slices(volume, masks, self.mask_slices)
                logits = self.vision.decode_parts(volume, queries, project=False)
                losses["mask_bce"], losses["mask_dice"] = part_mask_loss(logits, volume.part_masks(masks))
            parts.append(losses)
        metrics = {name: torch.stack([losses[name] for losses in parts]).mean() for name in parts[0]}
        loss = sum(value * (self.deep_weight if name.startswith("deep") else 1) for name, value in metrics.items())
        return PretrainingOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def _token_scores(self, tokens: Tensor, label_embeddings: Tensor) -> Tensor:
        """Cosine similarities (..., n) of tokens (..., C) and the text encoder's (n, text width), as `label_scores`."""
        centred = (tokens - self.centre.mean.to(tokens)).to(self.image_projection.weight.dtype)
        projected = F.normalize(self.image_projection(centred).float(), dim=-1)
        return projected @ self.embed_texts(label_embeddings).T

    def _check_width(self, embeddings: Tensor) -> None:
        if embeddings.shape[-1] != self.text_width:
            raise ValueError(
                f"text embeddings {tuple(embeddings.shape)}: the model takes {self.text_width}, its query_width; build "
                "it with the width of the text encoder"
            )


class RunningCentre(nn.Module):
    """x (B, C) less the running mean over all ranks in training: the bias of the layer behind it, kept in step.

    Tokens soon share a part many times as large as what tells volumes apart.  A cosine of them hardly differs then, and
    a learned bias follows the drift of that part too slowly.  (Caron et al. 2021 centre their embeddings in this way.)
    """

    MOMENTUM = 0.9

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """In training the batch joins the mean before it is taken off."""
        if self.training:
            self._update(x.detach().float().mean(0))
        return x - self.mean.to(x)

    @torch.no_grad()
    def _update(self, mean: Tensor) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        weight = 1 - self.MOMENTUM if bool(self.seen) else 1.0
        self.mean.lerp_(mean.to(self.mean), weight)
        self.seen += 1


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean of the tokens (P, n, C) where valid (P, n) -> (C,) float32; what stands elsewhere has no influence."""
    return tokens[valid].float().mean(0)


def classification_loss(logits: Tensor, targets: Tensor, loss: str) -> Tensor:
    """Mean over what is known of cross-entropy ("CE") or binary cross-entropy ("BCE"), 0 where nothing is.

    logits (B, n); targets (B,) int64 with UNKNOWN_CLASS for "CE", (B, n) with NaN where unknown for "BCE".
    """
    if loss == "CE":
        total = F.cross_entropy(logits.float(), targets, ignore_index=UNKNOWN_CLASS, reduction="sum")
        return total / (targets != UNKNOWN_CLASS).sum().clamp(min=1)
    if loss == "BCE":
        return weighted_bce(logits, targets, logits.new_ones(logits.shape[-1]))
    raise ValueError(f"classification loss {loss!r}; known are CE and BCE")
