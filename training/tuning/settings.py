"""What train_CTInstruct.py sets.  The values, and what they mean, stand at the top of that script."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from datasets.errors import InputError
from datasets.named_numbers import named_numbers
from models.extensions.settings import TuningExtensions
from training.settings import TrainingSettings

LOSSES = ("language", "diagnosis", "mask", "query")


@dataclass(kw_only=True)
class TuningSettings(TrainingSettings):
    """Settings of train_CTInstruct.py, which gives each field its value."""

    NO_PART_OF_THE_METHOD: ClassVar[frozenset[str]] = (
        TrainingSettings.NO_PART_OF_THE_METHOD
        | {"manifests", "validation_manifest", "validation_samples", "cache", "initial_checkpoint", "pretrained_vision"}
        | {"override_preprocessing", "array_axes"}
        | {"query_text_encoder", "gradient_checkpointing"}
        | {"micro_batch", "balance_ranks"}  # the batch is batch_size, however it is shared out
    )

    preset: Literal["full", "small", "compact", "narrow", "tiny"]
    recipe: Literal["published", "phantom", "open_kbp", "people"]

    manifests: tuple[str, ...]
    task_weights: tuple[str, ...]
    validation_manifest: str
    validation_samples: int
    orientation: str | None
    resize: Literal["published", "isotropic", "shrink"] | None
    field_of_view: tuple[float, float] | None
    clip_hu: tuple[float, float] | None
    normalisation: Literal["z-score", "window"] | None
    override_preprocessing: bool
    array_axes: str | None
    crop_size: tuple[int, int, int] | None
    patch_max: int | None
    cache: str
    max_length: int
    max_answer_tokens: int

    initial_checkpoint: str
    pretrained_vision: str
    language_model: str
    encoder: Literal["2D1D", "ViT3D", "ResNet3D"]
    vision: Literal["full", "small", "compact", "narrow", "tiny"]
    train_vision: bool
    gradient_checkpointing: bool
    lora: bool
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    lora_modules: tuple[str, ...]

    batch_size: int
    accumulation_steps: int = field(default=1, init=False)  # follows from batch_size: see `share_out_batch`
    vision_learning_rate: float

    query_text_encoder: str
    grounded_start: bool
    projector_start: Literal["random", "texts"]
    balance_ranks: bool
    questions_per_volume: int
    loss_weights: tuple[str, ...]
    length_power: float
    mask_slices: int
    mask_volumes: int

    def validate(self) -> None:
        """As of every training, and what instruction tuning adds: also settings that could not take effect."""
        super().validate()
        self.require_at_least(1, "batch_size", "max_length", "max_answer_tokens", "questions_per_volume")
        self.require_at_least(1, "lora_rank", "lora_alpha", "validation_samples")
        self.require_at_least(0, "vision_learning_rate", "length_power", "mask_slices", "mask_volumes")
        self.require_share("lora_dropout")
        weights = loss_weights(self.loss_weights)
        if "query" in weights and not self.query_text_encoder:
            raise InputError(
                "--loss_weights query: queries are drawn to text embeddings alone; give --query_text_encoder, the one "
                "that pretraining asked for masks with, or leave it out"
            )
        if self.initial_checkpoint:
            self._check_unused("initial_checkpoint", "the checkpoint has its own")
        if self.grounded_start and self.projector_start != "random":
            raise InputError("--grounded_start starts the projector too: leave --projector_start random")

    def _check_unused(self, option: str, reason: str) -> None:
        """Raise InputError for a setting of a new model where none is made."""
        idle = {
            "pretrained_vision": bool(self.pretrained_vision),
            "crop_size": self.crop_size is not None,
            "patch_max": self.patch_max is not None,
            "grounded_start": self.grounded_start,
            "projector_start": self.projector_start != "random",
        }
        for name, is_set in idle.items():
            if is_set:
                raise InputError(f"--{name} has no effect with --{option}: {reason}; leave one of the two out")

    def extensions(self, ranks: int) -> TuningExtensions:
        """What is added to the published model; aligned ranks where there is more than one."""
        return TuningExtensions(
            aligned_ranks=ranks > 1,
            share_volumes=self.questions_per_volume > 1,
            mask_slices=self.mask_slices,
            mask_volumes=self.mask_volumes,
            length_power=self.length_power,
            loss_weights=loss_weights(self.loss_weights),
            query_targets=bool(self.query_text_encoder),
        )


def loss_weights(items: Iterable[str]) -> dict[str, float]:
    """NAME=NUMBER for the parts of the loss; raises InputError for another name or what is no number of 0 or more."""
    return named_numbers(items, LOSSES, "--loss_weights", "")


def share_out_batch(settings: TuningSettings, ranks: int) -> None:
    """Set micro_batch, which is at most a rank's share of batch_size, and accumulation_steps, which follows.

    Raises InputError, naming the nearest values that fit, where ranks or micro_batch do not divide the batch.
    """
    batch = settings.batch_size
    if batch % ranks:
        near = [value for value in (batch // ranks * ranks, (batch // ranks + 1) * ranks) if value]
        raise InputError(f"--batch_size {batch} does not divide by {ranks} ranks: give {' or '.join(map(str, near))}")
    share = batch // ranks
    micro_batch = min(settings.micro_batch, share)
    if share % micro_batch:
        divisors = [value for value in range(1, share + 1) if share % value == 0]
        below = max(value for value in divisors if value < micro_batch)
        above = min(value for value in divisors if value > micro_batch)
        raise InputError(
            f"--micro_batch {micro_batch} does not divide a rank's share of the batch, {batch} / {ranks} = {share}: "
            f"give {below} or {above}"
        )
    settings.micro_batch, settings.accumulation_steps = micro_batch, share // micro_batch
