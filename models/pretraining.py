"""Multi-granular vision pretraining: one encoder learns from reports, from disease labels and from masks.

This is the published method alone, as far as it is known; `models.extensions.pretraining` adds to it from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.pretraining_batch import PretrainingBatch
from datasets.vocabulary import UNKNOWN_CLASS
from datasets.volume.anyres import PatchedVolume
from models.encoders.contract import EncodedVolume
from models.encoders.inputs import encoder_inputs
from models.masks.losses import part_mask_loss, weighted_bce
from models.parameters import freeze_unused
from models.text.checks import check_queries, check_width
from models.text.contrastive import (
    INITIAL_LABEL_SCALE,
    INITIAL_TEMPERATURE,
    LARGEST_SCALE,
    ContrastiveLoss,
    bounded_exp,
)
from models.vision import VisionModel


@dataclass
class PretrainingOutput:
    """loss: the mean over the batch.  metrics: its parts, and what else a log shall tell."""

    loss: Tensor
    metrics: dict[str, Tensor]


class PretrainingModel(nn.Module):
    """The vision model and what pretraining adds to it: two projections to a common space and three objectives.

    Text embeddings are those of the frozen text encoder, of width `vision.config.query_width`, since they are the mask
    decoder's queries too; the common space has the same width.

    A task uses some of the parameters and leaves others without a gradient.  That is right with ZeRO-2 as long as all
    ranks have the same task at the same micro-step.  The parts that only a language model needs are not trained.

    queue_size: texts of earlier steps that volumes are also compared with.
    temperature: where the learned temperature of the contrastive loss begins.
    label_scale: where the learned scale of the cosines between volumes and labels begins.
    """

    def __init__(
        self,
        vision: VisionModel,
        queue_size: int = 512,
        temperature: float = INITIAL_TEMPERATURE,
        label_scale: float = INITIAL_LABEL_SCALE,
    ) -> None:
        super().__init__()
        width = vision.config.query_width
        self.vision = vision
        self.text_width = width  # of the text encoder's embeddings
        self.image_projection = nn.Linear(vision.config.token_width, width)
        self.text_projection = nn.Linear(width, width)
        # Texts begin in the text encoder's own space.  Random biases would give all texts, and all volumes, a common
        # part as large as what tells them apart, and the first thing learned would be to give up the latter.
        nn.init.eye_(self.text_projection.weight)
        nn.init.normal_(self.image_projection.weight, std=vision.config.token_width**-0.5)  # as in CLIP
        nn.init.zeros_(self.text_projection.bias)
        nn.init.zeros_(self.image_projection.bias)
        self.contrastive = ContrastiveLoss(width, queue_size, temperature)
        self.classification_log_scale = nn.Parameter(torch.tensor([label_scale]).log())
        vision.bridger.requires_grad_(False)
        vision.qwen2biolord.requires_grad_(False)
        freeze_unused(self)

    # ---- the forward pass

    def forward(self, batch: PretrainingBatch) -> PretrainingOutput:
        """The loss of a batch of any of the three kinds, and how far apart its tokens lie (`token_spread`)."""
        encoded = self.encode(batch.volumes)
        output = self.objective(encoded, batch)
        return PretrainingOutput(output.loss, output.metrics | token_spread(encoded))

    def objective(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """The loss of a batch of any of the three kinds, from its encoded volumes."""
        if batch.kind == "image_text":
            return self.image_text_loss(encoded, batch)
        if batch.kind == "classification":
            return self.classification_loss(encoded, batch)
        if batch.kind == "segmentation":
            return self.segmentation_loss(encoded, batch)
        raise ValueError(f"a batch of kind {batch.kind!r}; known are image_text, classification and segmentation")

    def image_text_loss(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """Symmetric InfoNCE of volumes and their reports."""
        assert batch.text_embeddings is not None  # of a batch of this kind
        check_width(batch.text_embeddings, self.text_width)
        output = self.contrastive(self.embed_encoded(encoded), batch.text_embeddings, self.embed_texts)
        return PretrainingOutput(output.loss, {"accuracy": output.accuracy, "scale": self.contrastive.scale.detach()})

    def classification_loss(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """Cross-entropy, binary or not, of scaled cosines between volumes and the descriptions of labels."""
        assert batch.label_embeddings is not None and batch.targets is not None and batch.loss is not None
        scores = self.label_scores(self.embed_encoded(encoded), batch.label_embeddings)
        loss = classification_loss(self.classification_logits(scores, batch.loss), batch.targets, batch.loss)
        return PretrainingOutput(loss, {"scale": self.classification_scale.detach()})

    def segmentation_loss(self, encoded: Sequence[EncodedVolume], batch: PretrainingBatch) -> PretrainingOutput:
        """BCE and Dice of the masks that the label embeddings ask for, each the mean over the volumes."""
        volumes = zip(encoded, batch.query_embeddings, batch.masks, strict=True)
        return self.mean_of_parts([self.mask_losses(volume, queries, masks) for volume, queries, masks in volumes])

    def mask_losses(self, volume: EncodedVolume, queries: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Losses of one volume: queries (n, text width), masks (n, X, Y, Z) of 0, 1 and -1."""
        check_queries(queries, masks, self.text_width)
        logits = self.vision.decode_parts(volume, queries, project=False)
        bce, dice = self.mask_terms(logits, volume.part_masks(masks))
        return {"mask_bce": bce, "mask_dice": dice}

    def mask_terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """BCE and Dice of a volume's masks, both as `part_mask_loss` has them."""
        return part_mask_loss(logits, target)

    def mean_of_parts(self, parts: Sequence[dict[str, Tensor]]) -> PretrainingOutput:
        """The sum of a segmentation step's losses, each the mean over its volumes."""
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        # the parts of the mask loss are added here
        loss = reduce(torch.add, [value * self.weight_of(name) for name, value in means.items()])
        return PretrainingOutput(loss, {name: value.detach() for name, value in means.items()})

    def weight_of(self, loss: str) -> float:
        """Of a part of the segmentation loss, by its name."""
        return 1.0

    # ---- its steps, which evaluation uses as well

    def encode(self, volumes: Sequence[PatchedVolume]) -> list[EncodedVolume]:
        """Encode volumes of any grids as one batch, on the weights' device and in their type."""
        return self.vision.encode_many(encoder_inputs(volumes, self.image_projection.weight))

    def pool(self, encoded: Sequence[EncodedVolume]) -> Tensor:
        """-> (B, C) float32: the mean of each volume's tokens outside the padding."""
        return torch.stack([masked_mean(volume.tokens, volume.valid) for volume in encoded])

    def embed_encoded(self, encoded: Sequence[EncodedVolume]) -> Tensor:
        """-> (B, width) float32 of length 1: the projected mean of each volume's tokens."""
        projected = self.image_projection(self.pool(encoded).to(self.image_projection.weight.dtype))
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
        check_width(label_embeddings, self.text_width)
        return volume_embeddings @ self.embed_texts(label_embeddings).T

    def classification_logits(self, scores: Tensor, loss: str) -> Tensor:
        """Of `label_scores` (B, n): to go through a softmax over the labels ("CE") or a sigmoid for each ("BCE")."""
        return scores * self.classification_scale

    @property
    def classification_scale(self) -> Tensor:
        """Learned; at most as large as the contrastive one; without an axis."""
        return bounded_exp(self.classification_log_scale[0].float(), LARGEST_SCALE)

    # ---- around it

    def comparison_parameters(self) -> list[nn.Parameter]:
        """What compares volumes with texts: the projection to them, and the scales of logits.

        The texts' own projection is not among them: it begins as the identity, and need not move much.
        """
        scales = [self.contrastive.log_scale, self.classification_log_scale]
        return [*scales, *self.image_projection.parameters()]

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory in training."""
        self.vision.gradient_checkpointing_enable()


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean of the tokens (P, n, C) where valid (P, n) -> (C,) float32; what stands elsewhere has no influence."""
    return tokens[valid].float().mean(0)


@torch.no_grad()
def token_spread(encoded: Sequence[EncodedVolume]) -> dict[str, Tensor]:
    """{"token_spread": 0 to 1}: how far a volume's tokens lie from their mean, as a share of their size.

    Root mean squares over the tokens outside the padding, their quotient's mean over the volumes.  At 0 all tokens of a
    volume are one, and a language model sees of it what is common to all its slices or cubes; the masks may be good all
    the same.  Empty where every volume is a single token; a volume of one token and padding counts 0.
    """
    shares = []
    for volume in encoded:
        padding = ~volume.valid.flatten()[:, None]
        tokens = volume.tokens.flatten(0, 1).float().masked_fill(padding, 0.0)
        if len(tokens) > 1:
            deviations = (tokens - tokens.sum(0) / (~padding).sum()).masked_fill(padding, 0.0)
            shares.append(deviations.norm() / tokens.norm().clamp(min=torch.finfo(torch.float32).tiny))
    return {"token_spread": torch.stack(shares).mean()} if shares else {}


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
