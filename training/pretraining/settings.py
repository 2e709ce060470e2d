"""What the three encoder scripts set.  The values, and what they mean, stand at the top of each script."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, ClassVar, Literal, TypeVar

from datasets.errors import InputError
from datasets.volume.augmentation import AugmentationOptions
from models.configuration import vision_preset
from training.settings import TrainingSettings

Settings = TypeVar("Settings", bound="PretrainingSettings")
Size = Literal["full", "small", "compact", "narrow", "tiny"]
SCORES = {"val": "validation.json", "test": "test.json"}  # in the run folder: the newest scores, by validation_split


@dataclass(kw_only=True)
class PretrainingSettings(TrainingSettings):
    """Settings of the three encoder scripts, which give each field its value.

    max_iters and the intervals are in draws: micro-steps of one task.
    """

    NO_PART_OF_THE_METHOD: ClassVar[frozenset[str]] = (
        TrainingSettings.NO_PART_OF_THE_METHOD
        | {"manifest_dir", "phantoms", "cache", "skip_missing_tasks", "initial_vision", "gradient_checkpointing"}
        | {"validation_samples", "validation_split", "eval_only", "override_preprocessing", "array_axes"}
    )

    preset: Size
    recipe: Literal["published", "phantom", "open_kbp", "people"]

    manifest_dir: str
    phantoms: str
    kinds: tuple[str, ...]
    task_weights: tuple[str, ...]
    skip_missing_tasks: bool
    orientation: str | None
    resize: Literal["published", "isotropic", "shrink"] | None
    field_of_view: tuple[float, float] | None
    clip_hu: tuple[float, float] | None
    normalisation: Literal["z-score", "window"] | None
    override_preprocessing: bool
    array_axes: str | None
    crop_size: tuple[int, int, int]
    patch_max: int
    cache: str
    labels_per_step: int
    absent_labels: Literal["all", "balanced"]
    window_slices: int
    validation_samples: int
    validation_split: Literal["val", "test"]
    eval_only: bool

    augmentation: bool
    augment_rotate: float
    augment_flip: float
    augment_segmentation_flip: float
    augment_flip_sided: bool
    augment_scale: float
    augment_scale_by: float
    augment_shift: float
    augment_shift_by: float
    augment_noise: float
    augment_noise_sigma: float
    augment_draw_noise_sigma: bool
    augment_contrast: float
    augment_gamma: tuple[float, float]
    augment_affine: float
    augment_affine_degrees: float
    augment_affine_scale: float
    augment_affine_shift: float
    augment_mirror: float

    text_encoder: str
    vision: Size
    initial_vision: str
    queue_size: int
    temperature: float
    label_scale: float
    gradient_checkpointing: bool

    segmentation_micro_batch: int
    draw_ranks: int

    pretrained_backbone: str
    running_centre: bool
    prevalence: bool
    mask_bce_weight: float
    log_dice: bool
    deep_supervision: float
    deep_tokens: bool
    deep_only_tasks: tuple[str, ...]
    token_classification: float
    mask_slices: int
    attention_rate: float
    muon_attention: bool
    mask_decoder_rate: float
    projection_rate: float

    def validate(self) -> None:
        """As of every training, and what pretraining adds."""
        super().validate()
        self.require_at_least(1, "segmentation_micro_batch", "validation_samples", "labels_per_step", "patch_max")
        self.require_at_least(
            0, "queue_size", "deep_supervision", "token_classification", "mask_slices", "window_slices", "draw_ranks"
        )
        self.require_at_least(0, "attention_rate", "mask_decoder_rate", "projection_rate", "mask_bce_weight")
        if self.deep_tokens and not self.deep_supervision:
            raise InputError(
                "--deep_tokens is part of deep supervision, which has no weight; give --deep_supervision 2"
            )
        self._augmentation()
        for name in ("temperature", "label_scale"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value above 0")

    @property
    def augmentation_options(self) -> AugmentationOptions | None:
        """As the dataset takes them; None for no augmentation."""
        return self._augmentation() if self.augmentation else None

    def _augmentation(self) -> AugmentationOptions:
        return AugmentationOptions(
            **{part.name: getattr(self, f"augment_{part.name}") for part in fields(AugmentationOptions)}
        )


def in_updates(settings: Settings, ranks: int = 1) -> Settings:
    """The same as the loop counts: max_iters and the intervals in optimiser steps, accumulation in micro-steps.

    An update is made at every `accumulation_steps`-th draw; one that is begun is finished, so numbers are rounded up.
    A draw is one micro-step of the ranks; with `draw_ranks`, as many as it takes them to do what so many ranks do.

    Raises InputError where the ranks do not divide `draw_ranks`.
    """
    draw_ranks = settings.draw_ranks or ranks
    if draw_ranks % ranks:
        raise InputError(f"--draw_ranks {draw_ranks} does not divide by {ranks} ranks: run on as many as divide it")
    in_draws = ("max_iters", "log_interval", "save_interval", "eval_interval")
    intervals = {name: ceil(getattr(settings, name) / settings.accumulation_steps) for name in in_draws}
    return replace(settings, accumulation_steps=settings.accumulation_steps * draw_ranks // ranks, **intervals)


def size_preset(size: Size, encoder: str) -> dict[str, Any]:
    """Fields of a smaller network and what suits it: the text encoder, data that are made on the spot, memory."""
    config = vision_preset(size, encoder)
    preset: dict[str, Any] = {"vision": size, "crop_size": config.crop_size, "patch_max": config.patch_max}
    if size in ("compact", "narrow", "tiny"):
        preset |= {"text_encoder": "tiny", "gradient_checkpointing": False, "workers": int(size != "tiny")}
    if size == "tiny":
        preset["manifest_dir"] = ""
    return preset
