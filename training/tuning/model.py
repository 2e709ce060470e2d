"""The model that instruction tuning starts from: a checkpoint, or new parts around pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from datasets.errors import InputError
from datasets.label_descriptions import canonical
from datasets.manifest import InstructionRecord, manifest_texts
from datasets.volume.preprocessing import Preprocessing
from models.checkpoints.folder import build_ctinstruct
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.pretrained_vision import labels_to_texts, load_into, load_pretrained_vision, tokens_to_texts
from models.checkpoints.released import load_released_vision
from models.configuration import VisionConfig, vision_preset
from models.ctinstruct import CTInstruct, MakeModel
from models.extensions.grounded_start import start_grounded
from models.extensions.projector_start import start_projector
from models.extensions.tuning import tuning_model
from models.hub.download import fetched
from models.hub.names import hub_name
from models.hub.selection import VISION
from models.language.loading import load_language_model
from models.language.lora import LoraSettings, add_lora, lora_settings
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer
from models.parameters import freeze_encoder, freeze_unused
from models.text.label_embeddings import label_embeddings
from training import checkpoint_store, distributed
from training.precision import TYPES, resolve_precision
from training.preprocessing import resolve_preprocessing
from training.tuning.settings import TuningSettings


def build_model(settings: TuningSettings, records: Sequence[InstructionRecord], ranks: distributed.Ranks) -> CTInstruct:
    """The model in the state in which training begins: what is frozen is frozen, adapters are in place.

    Raises InputError for a setting that cannot take effect on this model, or weights that do not fit it.
    """
    check_start(settings)
    preprocessing, _ = preprocessing_of(settings)  # before a large model is read
    model = _start(settings, records, ranks.device, tuning_model(settings.extensions(ranks.world_size)))
    model.vision.preprocessing = preprocessing
    if settings.mask_slices and not model.config.masks_by_slice:
        raise InputError(
            f"--mask_slices {settings.mask_slices}: {model.config.encoder} decodes whole patches, not slices; give "
            "--mask_slices 0"
        )
    if settings.lora:
        _adapt(model, settings)
    if not settings.train_vision:
        freeze_encoder(model)
    freeze_unused(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def check_start(settings: TuningSettings) -> None:
    """Raise InputError where `grounded_start` or `projector_start` lacks what it starts from."""
    folder = Path(settings.pretrained_vision)
    in_folder = bool(settings.pretrained_vision) and not folder.is_file()  # a released file knows no texts
    if settings.projector_start == "texts" and not in_folder:
        raise InputError(
            "--projector_start texts begins at pretraining's projection: give --pretrained_vision, the folder of a "
            "pretraining run, or --projector_start random"
        )
    if not settings.grounded_start:
        return
    if settings.language_model != "tiny":
        raise InputError(
            f"--grounded_start is for a language model made on the spot: give --language_model tiny in place of "
            f"{settings.language_model}, or --grounded_start false"
        )
    if not in_folder or not settings.query_text_encoder:
        raise InputError(
            "--grounded_start begins at what pretraining knows of labels: give --pretrained_vision, the folder of a "
            "pretraining run, and --query_text_encoder, its text encoder, or --grounded_start false"
        )


def preprocessing_of(settings: TuningSettings) -> tuple[Preprocessing, list[str]]:
    """How volumes are prepared: as for the weights that the run starts from; and a line for each setting that differs.

    Weights are not read.  Raises InputError for a setting that differs and is not overridden.
    """
    config = vision_preset(settings.vision, settings.encoder)
    new = Preprocessing.standard(config.crop_size, config.patch_max)
    folder = _checkpoint(settings)
    start: Path | Preprocessing | None = folder
    if folder is None and settings.pretrained_vision:
        path = fetched(settings.pretrained_vision, VISION)
        # a single file is the release's; it does not say its sizes, so options name them
        sizes = settings.crop_size or config.crop_size, settings.patch_max or config.patch_max
        released = Preprocessing.released(*sizes)
        start = released if path.is_file() else checkpoint_store.resolve_model_folder(path)
    trained = str(start if isinstance(start, Path) else settings.pretrained_vision)
    return resolve_preprocessing(start, new, trained, settings)


def _checkpoint(settings: TuningSettings) -> Path | None:
    """The model folder of the checkpoint that the run goes on from or starts at, or None for a new model."""
    resumed = checkpoint_store.find_checkpoint(settings.run_dir, settings.resume)
    start = resumed / "model" if resumed else settings.initial_checkpoint
    return checkpoint_store.resolve_model_folder(start) if start else None


def _start(
    settings: TuningSettings, records: Sequence[InstructionRecord], device: torch.device, make: MakeModel
) -> CTInstruct:
    """A checkpoint that the run goes on from, or new vision before a loaded (or tiny random) language model.

    Weights are read in the type that DeepSpeed will hold them in: 7B of float32 on every rank would take 28 GB each.
    """
    dtype = TYPES[resolve_precision(settings, device)]
    if checkpoint := _checkpoint(settings):
        return load_checkpoint(checkpoint, dtype=dtype, make=make)
    if settings.language_model == "tiny":
        tokenizer = distributed.from_main(lambda: train_tokenizer(manifest_texts(records)))
        language_model = build_tiny_language_model(tokenizer)
    else:
        language_model, tokenizer = load_language_model(settings.language_model, dtype)
    path = fetched(settings.pretrained_vision, VISION)
    if not settings.pretrained_vision or path.is_file():
        if settings.grounded_start or settings.projector_start == "texts":  # a hub name turned out to be such a file
            raise InputError(
                f"--pretrained_vision {settings.pretrained_vision}: a released file knows no texts; leave out "
                "--grounded_start and --projector_start texts, or give the folder of a pretraining run"
            )
        config = _with_sizes(vision_preset(settings.vision, settings.encoder), settings)
        model = build_ctinstruct(config, language_model, tokenizer, make=make)
        if settings.pretrained_vision:
            load_released_vision(model.vision, path)
        return model
    folder = checkpoint_store.resolve_model_folder(path)
    config, _ = load_pretrained_vision(folder)
    if settings.encoder not in ("2D1D", config.encoder):
        raise InputError(f"--encoder {settings.encoder}: {folder} holds a {config.encoder}; leave --encoder out")
    model = build_ctinstruct(_with_sizes(config, settings), language_model, tokenizer, make=make)
    load_into(model.vision, folder)
    if settings.grounded_start:
        named = {canonical(label) for record in records for label in (*record.labels, *record.targets)}
        embeddings = label_embeddings(settings.query_text_encoder, named, config.query_width)
        start_grounded(model, labels_to_texts(model.vision, folder), tokens_to_texts(model.vision, folder), embeddings)
    if settings.projector_start == "texts":
        start_projector(model.vision, tokens_to_texts(model.vision, folder))
    return model


def _with_sizes(config: VisionConfig, settings: TuningSettings) -> VisionConfig:
    """The configuration with the patch size and number that the settings name."""
    return replace(
        config,
        crop_size=settings.crop_size or config.crop_size,
        patch_max=settings.patch_max or config.patch_max,
    )


def _adapt(model: CTInstruct, settings: TuningSettings) -> None:
    """Put LoRA adapters into the language model, unless a checkpoint brought them."""
    if lora_settings(model.language_model):
        return
    base = settings.language_model
    if settings.initial_checkpoint and hub_name(settings.initial_checkpoint):
        base = settings.initial_checkpoint  # anyone can load it again, from the hub
    elif settings.initial_checkpoint:  # the very step, for the run may go on
        base = str(checkpoint_store.resolve_model_folder(settings.initial_checkpoint))
    if base == "tiny":
        raise InputError(
            "--lora adapts a model that can be loaded again: give --language_model or --initial_checkpoint"
        )
    lora = LoraSettings(
        base, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, tuple(settings.lora_modules)
    )
    # the adapted model passes every call and attribute on to the one inside
    model.language_model = cast(PreTrainedModel, add_lora(model.language_model, model.tokenizer, lora))
