"""CTInstruct as a folder: config.json, safetensors shards and the tokenizer; `loading` reads it, and released ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from datasets.errors import CheckpointError
from datasets.vocabulary import IMAGE_MARKUP, NEW_TOKENS
from models.checkpoints.json_object import read_object
from models.checkpoints.preprocessing import ENTRY
from models.checkpoints.weight_files import Convert, save_weights, tied_names
from models.checkpoints.whole_folder import whole_folder
from models.configuration import VisionConfig
from models.ctinstruct import CTInstruct, MakeModel
from models.language.loading import build_language_model
from models.language.lora import LanguageModel, is_trained_name, lora_settings
from models.language.quantization import Quantization, is_quantized, quantized_layers
from models.vision import VisionModel

FORMAT = "ctinstruct-1"
CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)


def build_ctinstruct(
    vision: VisionConfig,
    language_model: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    make: MakeModel = CTInstruct,
) -> CTInstruct:
    """Vision with random weights before a given language model, whose width the projector takes on."""
    width = language_model.config.get_text_config().hidden_size
    config = VisionConfig.from_dict({**vision.to_dict(), "llm_width": width})
    return make(VisionModel(config), language_model, tokenizer)


def save_checkpoint(
    model: CTInstruct,
    folder: str | Path,
    max_shard_size: str = "4GB",
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``model`` so that ``load_checkpoint`` and nothing else is needed to use it.

    training: how it was trained, for config.json: recipe, and what departs from the published one.
    """
    folder = Path(folder)
    config: dict[str, Any] = {
        "format": FORMAT,
        "vision": model.config.to_dict(),
        ENTRY: model.vision.preprocessing.to_dict(),
        "language_model": model.language_model.config.to_dict(),
        "generation": model.language_model.generation_config.to_diff_dict(),
    }
    if training:
        config["training"] = dict(training)
    if lora := lora_settings(model.language_model):
        config["lora"] = lora.to_dict()
    with whole_folder(folder) as part:
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        model.tokenizer.save_pretrained(part)
        save_weights(stored_state(model), part, max_shard_size)
    return folder


def stored_state(model: CTInstruct) -> dict[str, torch.Tensor]:
    """What a folder holds: each tied parameter once, and of an adapted language model the adapter alone."""
    if is_quantized(model.language_model):
        raise CheckpointError("a quantised model is for answering alone; load it without --quantize to save it")
    tensors = model.state_dict()
    if lora_settings(model.language_model):
        return {name: tensor for name, tensor in tensors.items() if not is_frozen_base(name)}
    tied = tied_names(model)
    kept: set[str] = set()
    for name in list(tensors):  # of a group the first stays, which is the embedding, as transformers has it
        if tied.get(name, set()) & kept:
            del tensors[name]
        kept.add(name)
    return tensors


def is_frozen_base(name: str) -> bool:
    """Whether a state-dict name is a weight that an adapter leaves as it was, and that a folder does not hold."""
    return name.startswith("language_model.") and not is_trained_name(name)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; raises CheckpointError where it is absent or no JSON object."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}; give a folder that a training run or a conversion wrote")
    return read_object(path)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; raises CheckpointError where a file of it is damaged or it lacks one of our tokens."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            read_object(folder / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers and tokenizers raise whatever they stumble over
        raise CheckpointError(
            f"{folder}: its tokenizer does not load ({' '.join(str(error).split())[:160]})"
        ) from error
    for token in NEW_TOKENS:
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            raise CheckpointError(f"{folder}: its tokenizer does not know {token}; the folder is not complete")
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{folder}: its tokenizer has no token that ends an answer; copy tokenizer_config.json")
    _check_template(tokenizer, folder)
    return tokenizer


def _check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A chat template is a program that runs at the first question: try it on one before."""
    path = folder / "chat_template.jinja"
    if not tokenizer.chat_template:
        if path.is_file():
            raise CheckpointError(f"{path}: is empty; copy it again")
        return
    question = [{"role": "user", "content": IMAGE_MARKUP}]
    try:
        text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # of jinja, or of what the template does
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path if path.is_file() else folder}: its chat template fails ({reason})") from error
    if IMAGE_MARKUP not in str(text):
        raise CheckpointError(f"{path if path.is_file() else folder}: its chat template leaves out what is asked")


def check_width(vision: VisionConfig, language_config: PreTrainedConfig, path: Path) -> None:
    """CheckpointError where the vision network's width for the language model is not that model's."""
    width = language_config.get_text_config().hidden_size
    if vision.llm_width != width:
        raise CheckpointError(
            f"{path}: vision.llm_width is {vision.llm_width}, but the language model is {width} wide; copy it again"
        )


def build_without_storage(
    vision: VisionConfig,
    language_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    make: MakeModel = CTInstruct,
) -> CTInstruct:
    """The model on the meta device; buffers that are computed and not stored are real."""
    with init_empty_weights(include_buffers=False):
        model = build_ctinstruct(vision, build_language_model(language_config), tokenizer, make)
    model.language_model.tie_weights()  # moving to the meta device gave each name a tensor of its own
    return model


def quantizing(model: CTInstruct, scheme: Quantization | None) -> Convert:
    """For `assign_weights` of a model without storage: what quantises the weights of its language model, or nothing."""
    if scheme is None:
        return lambda name, tensor: tensor
    convert, prefix = quantized_layers(model.language_model, scheme), "language_model."
    return lambda name, tensor: convert(name.removeprefix(prefix), tensor) if name.startswith(prefix) else tensor


def finish_loading(model: CTInstruct, device: torch.device | str, generation: Mapping[str, Any]) -> CTInstruct:
    """Set generation options, move what was not read to the device."""
    for key, value in generation.items():
        setattr(model.language_model.generation_config, key, value)
    return model.to(device).eval()
