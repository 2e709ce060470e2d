"""Which extensions a model has: one frozen record for pretraining, one for instruction tuning.

All defaults are off, which is the published method; `pretraining_model` and `tuning_model` build what is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PretrainingExtensions:
    """What is added to `models.pretraining.PretrainingModel`.

    running_centre: what all volumes have in common is taken off their pooled tokens.
    prevalence: share of positives at which multi-label classification begins, by a learned bias; None for no bias.
    mask_bce_weight: of the cross-entropy of masks beside their Dice, which has no gradient where a structure is absent.
    log_dice: the logarithm of Dice in place of 1 - Dice, for structures that most samples do not show.
    deep_supervision: weight of masks at the resolution of the encoder's feature maps; 0 leaves it out.
    deep_tokens: deep supervision asks tokens too where the mask decoder learns, or they may become all alike.
    deep_only_tasks: segmentation tasks learned by maps, tokens and the volume's embedding, without the mask decoder.
    token_classification: weight of classification by single tokens; 0 leaves it out.
    mask_slices: slices of a volume on which masks are learned in one step; 0 for all.
    """

    running_centre: bool = False
    prevalence: float | None = None
    mask_bce_weight: float = 1.0
    log_dice: bool = False
    deep_supervision: float = 0.0
    deep_tokens: bool = False
    deep_only_tasks: frozenset[str] = frozenset()
    token_classification: float = 0.0
    mask_slices: int = 0


@dataclass(frozen=True)
class TuningExtensions:
    """What is added to `models.ctinstruct.CTInstruct` in training.

    aligned_ranks: every rank runs every part in every step, as ZeRO needs where samples of several kinds are mixed.
    share_volumes: a volume's tokens are read once by the language model for all questions about it.
    mask_slices, mask_volumes: so many slices of a volume, and volumes of a batch, learn masks in a step; 0 for all.
    length_power: divides the sum over an answer's n tokens by n to this power; 1 is their mean.
    loss_weights: of language, diagnosis, mask and query in a sample's sum; 1 where not given.
    query_targets: queries of `<SEG>` are drawn to their labels' text embeddings, which the batch then holds.
    """

    aligned_ranks: bool = False
    share_volumes: bool = False
    mask_slices: int = 0
    mask_volumes: int = 0
    length_power: float = 1.0
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    query_targets: bool = False
