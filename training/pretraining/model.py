"""The model of a pretraining run, its text encoder, and the rates at which its parts learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.nn import Parameter

from datasets.errors import InputError
from datasets.label_descriptions import descriptions
from datasets.volume.preprocessing import Preprocessing
from datasets.whole_files import written_whole
from models.checkpoints.pretrained_backbone import load_pretrained_backbone
from models.checkpoints.pretrained_vision import load_into
from models.configuration import VISION_PRESETS, VisionConfig, vision_preset
from models.encoders.attention import Transformer
from models.extensions.pretraining import pretraining_model
from models.extensions.settings import PretrainingExtensions
from models.hub.download import fetched
from models.hub.selection import VISION
from models.pretraining import PretrainingModel
from models.text.text_encoder import TextEncoder
from models.text.tiny_text_encoder import build_tiny_text_encoder
from models.vision import VisionModel
from training import checkpoint_store, distributed
from training.preprocessing import resolve_preprocessing
from training.pretraining.settings import PretrainingSettings


def vision_config(settings: PretrainingSettings, encoder: str, text_width: int) -> VisionConfig:
    """The preset's sizes for ``encoder``, with queries as wide as the text encoder's embeddings."""
    return replace(
        vision_preset(settings.vision, encoder),
        crop_size=settings.crop_size,
        patch_max=settings.patch_max,
        query_width=text_width,
    )


def preprocessing_of(settings: PretrainingSettings) -> tuple[Preprocessing, list[str]]:
    """How volumes are prepared: as for the weights that the run starts from; and a line for each setting that differs.

    Raises InputError for a setting that differs and is not overridden.
    """
    start = None
    if settings.eval_only:
        start = checkpoint_store.resolve_model_folder(settings.run_dir)
    elif resumed := checkpoint_store.find_checkpoint(settings.run_dir, settings.resume):
        start = resumed / "model"
    elif settings.initial_vision:
        start = checkpoint_store.resolve_model_folder(fetched(settings.initial_vision, VISION))
    new = Preprocessing.standard(settings.crop_size, settings.patch_max)
    return resolve_preprocessing(start, new, str(start), settings)


def check_encoder(settings: PretrainingSettings, encoder: str) -> None:
    """Raise InputError for a setting that cannot take effect on this encoder."""
    if settings.mask_slices and not vision_preset(settings.vision, encoder).masks_by_slice:
        raise InputError(
            f"--mask_slices {settings.mask_slices}: {encoder} decodes whole patches, not slices; give --mask_slices 0"
        )
    if settings.attention_rate != 1 and encoder != "2D1D":
        raise InputError(
            f"--attention_rate {settings.attention_rate}: it is of 2D1D's transformers, which {encoder} has not; "
            "give --attention_rate 1"
        )
    if not settings.muon_attention and encoder != "2D1D":
        raise InputError(f"--muon_attention false: it is of 2D1D's transformers, which {encoder} has not; leave it out")


def build_model(settings: PretrainingSettings, config: VisionConfig, prevalence: float | None) -> PretrainingModel:
    """The published model, with those extensions that are on, from random weights or those that the settings name.

    prevalence: share of positives at which classification begins; None for no bias.
    """
    extensions = PretrainingExtensions(
        running_centre=settings.running_centre,
        prevalence=prevalence,
        mask_bce_weight=settings.mask_bce_weight,
        log_dice=settings.log_dice,
        deep_supervision=settings.deep_supervision,
        deep_tokens=settings.deep_tokens,
        deep_only_tasks=frozenset(settings.deep_only_tasks),
        token_classification=settings.token_classification,
        mask_slices=settings.mask_slices,
    )
    vision = VisionModel(config)
    model = pretraining_model(vision, extensions, settings.queue_size, settings.temperature, settings.label_scale)
    if settings.pretrained_backbone:
        load_pretrained_backbone(model.vision, settings.pretrained_backbone)
    if settings.initial_vision:
        folder = checkpoint_store.resolve_model_folder(fetched(settings.initial_vision, VISION))
        load_into(model.vision, folder)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def parameter_groups(
    model: PretrainingModel,
    rate: float,
    attention_rate: float,
    mask_decoder_rate: float = 1.0,
    projection_rate: float = 1.0,
    muon_attention: bool = True,
) -> list[dict[str, Any]]:
    """What the optimiser steps: everything at `rate`, but three parts at shares of it.

    They are 2D1D's transformers, the mask decoder, and what compares maps, tokens and volumes with texts.

    The transformers' attention takes keys and values from the input as it is, so what a layer adds is multiplied by the
    next; at the rate that suits the convolutions they grow until all tokens are the same.  The mask decoder's queries
    stop following the label at such a rate.  The projections have a direction to find for every label, from features
    that change under them; at the rate that suits the convolutions they lag behind.  So do the scales and biases of the
    comparison: AdamW changes the logarithm of a scale by at most its rate a step, and cosines are small.

    muon_attention: whether Muon, where it is the optimiser, takes the transformers' matrices too.  In a small network
    they are half of its work.
    """
    shares = {id(p): attention_rate for m in model.modules() if isinstance(m, Transformer) for p in m.parameters()}
    to_adamw = set() if muon_attention else set(shares)
    vision = model.vision
    for part in (vision.decoder, vision.projection_layer, vision.transformer_decoder, vision.mask_embed_proj):
        shares |= {id(p): mask_decoder_rate for p in part.parameters()}
    shares |= {id(p): projection_rate for p in model.comparison_parameters()}
    groups: dict[tuple[float, bool], list[Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = shares.get(id(parameter), 1.0), id(parameter) in to_adamw
            groups.setdefault(kind, []).append(parameter)
    return [
        {"params": parameters, "lr": rate * share, **({"muon": False} if plain else {})}
        for (share, plain), parameters in groups.items()
    ]


def load_text_encoder(settings: PretrainingSettings, reports: list[str]) -> TextEncoder:
    """The frozen text encoder; the tiny one is learned from the reports on rank 0 and kept in the run folder."""
    cache = Path(settings.cache) / "texts" if settings.cache else None
    if settings.text_encoder != "tiny":
        return TextEncoder.load(settings.text_encoder, cache=cache)
    folder = Path(settings.run_dir) / "text_encoder"

    def build() -> None:
        if folder.is_dir():
            return
        if settings.eval_only:
            raise InputError(f"{folder}: is missing; give the --text_encoder that the run was trained with")
        width = VISION_PRESETS["tiny"].query_width
        with written_whole([folder]) as (part,):
            build_tiny_text_encoder([*descriptions().values(), *reports], width).save(part)

    distributed.from_main(build)
    return TextEncoder.load(folder, cache=cache)
