"""Read a CTInstruct checkpoint, whoever wrote it: this project's folders, adapted ones, and the release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from datasets.errors import CheckpointError, InputError
from models.checkpoints.folder import (
    CONFIG,
    FORMAT,
    build_ctinstruct,
    build_without_storage,
    check_width,
    finish_loading,
    is_frozen_base,
    load_tokenizer,
    quantizing,
    read_config,
)
from models.checkpoints.json_object import made_of
from models.checkpoints.preprocessing import stored_preprocessing
from models.checkpoints.released import load_released
from models.checkpoints.search_options import search_options
from models.checkpoints.weight_files import assign_weights
from models.configuration import VisionConfig
from models.ctinstruct import CTInstruct, MakeModel
from models.hub.download import fetched
from models.language.loading import language_config_from_dict, load_language_model
from models.language.lora import LanguageModel, LoraSettings, add_lora
from models.language.quantization import Quantization


def load_checkpoint(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    make: MakeModel = CTInstruct,
    quantize: Quantization | None = None,
) -> CTInstruct:
    """Read a checkpoint folder, of ours or of the release; no weight is ever held twice.

    The model is built without storage and takes the tensors of each shard as they come.

    Args:
        folder: what ``save_checkpoint`` wrote, or a released CTInstruct folder; or the hub name of either.
        device: where the weights go.
        dtype: of the weights; None keeps the stored one.
        make: builds the model of its parts; another one for training with extensions (`models.extensions.tuning`).
        quantize: hold the language model's linear layers in 8 or 4 bits, for answering alone.

    Raises:
        CheckpointError: a file is missing or damaged, or a key is missing, unexpected or of another shape.
        InputError: the language model cannot be quantised so.
    """
    folder = fetched(folder)
    config = read_config(folder)
    if "format" not in config and "model_type" in config:
        return load_released(folder, device, dtype, make, quantize)
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: its format is {config.get('format')!r}, this code reads {FORMAT!r}")
    if "lora" in config:
        if quantize:
            raise InputError(
                f"--quantize {quantize}: {folder} is an adapter; merge it first (python -m models.checkpoint merge)"
            )
        return _load_adapted(folder, config, device, dtype, make)
    path = folder / CONFIG
    vision = made_of(config, "vision", path, VisionConfig.from_dict)
    preprocessing = stored_preprocessing(config, vision, path)
    language_config = made_of(config, "language_model", path, language_config_from_dict)
    check_width(vision, language_config, path)
    generation = made_of({"generation": {}, **config}, "generation", path, search_options)
    tokenizer = load_tokenizer(folder)
    model = made_of(
        config, "language_model", path, lambda _: build_without_storage(vision, language_config, tokenizer, make)
    )
    model.vision.preprocessing = preprocessing
    assign_weights(model, folder, device=device, dtype=dtype, convert=quantizing(model, quantize))
    return finish_loading(model, device, generation)


def _load_adapted(
    folder: Path, config: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype | None, make: MakeModel
) -> CTInstruct:
    """A LoRA checkpoint: the frozen language model from where it was, everything else from the folder."""
    path = folder / CONFIG
    settings = made_of(config, "lora", path, LoraSettings.from_dict)
    vision = made_of(config, "vision", path, VisionConfig.from_dict)
    preprocessing = stored_preprocessing(config, vision, path)
    generation = made_of({"generation": {}, **config}, "generation", path, search_options)
    language_model, tokenizer = load_base(settings)
    check_width(vision, language_model.config, path)
    adapted = made_of(config, "lora", path, lambda _: add_lora(language_model, tokenizer, settings))
    model = build_ctinstruct(vision, adapted, tokenizer, make)
    model.vision.preprocessing = preprocessing
    assign_weights(model, folder, device=device, dtype=dtype, optional=is_frozen_base)
    model.to(device=device, dtype=dtype)
    return finish_loading(model, device, generation)


def load_base(settings: LoraSettings) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    """The frozen language model that an adapter belongs to; a CTInstruct folder may hold an adapter in turn."""
    base = fetched(settings.base)
    if (base / CONFIG).is_file() and read_config(base).get("format") == FORMAT:
        whole = load_checkpoint(base)
        return whole.language_model, whole.tokenizer
    return load_language_model(str(base))
