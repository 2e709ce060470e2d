"""The folder layout of sentence-transformers: a transformer, then pooling and optional layers, named in modules.json.

    modules.json                  [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}, ...]
    sentence_bert_config.json     {"max_seq_length": 256, "do_lower_case": false}
    1_Pooling/config.json         {"pooling_mode_mean_tokens": true, ...}
    2_Dense/config.json           {"in_features", "out_features", "bias", "activation_function"}, weights beside it

A Normalize module may follow; embeddings are normalised whether or not it does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from datasets.errors import InputError
from datasets.json_text import parse_json
from models.hub.download import find_model
from models.hub.selection import TEXT_ENCODER, HubError

POOLING_FLAGS = {  # the flag in 1_Pooling/config.json of each mode that is read
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}
_LENGTH_FILE = "sentence_bert_config.json"


@dataclass
class SentenceFolder:
    """What surrounds the transformer: `transformer` is its folder, max_length in tokens (None: the tokenizer's)."""

    transformer: Path
    pooling: str = "mean"
    dense: list[nn.Module] = field(default_factory=list)
    max_length: int | None = None
    lower_case: bool = False


def fetch(name_or_folder: str | Path) -> Path:
    """A local folder as it is, or the download of a hub name (safetensors, or PyTorch's format where there are none).

    A name may carry a revision: `FremyCompany/BioLORD-2023@main`.  Raises InputError where it is neither.
    """
    try:
        return find_model(name_or_folder, TEXT_ENCODER, bare=True)
    except HubError as error:
        raise InputError(
            f"text encoder {str(name_or_folder)!r} could not be loaded: give a hub name that can be fetched or the "
            f"folder of a sentence-transformers model ({error})"
        ) from error


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read the layout; a plain transformers folder is a transformer with mean pooling.

    Raises InputError, which names the file, for a module, a pooling mode or a setting that is not supported.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return SentenceFolder(folder)
    result = SentenceFolder(folder)
    for module in sorted(_read(modules), key=lambda entry: entry["idx"]):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            result.transformer = path
        elif kind == "Pooling":
            result.pooling = _pooling(path / "config.json")
        elif kind == "Dense":
            result.dense += _dense(path)
        elif kind != "Normalize":  # embeddings are normalised in any case
            raise InputError(
                f"{modules}: module {kind} is not supported; known are Transformer, Pooling, Dense and Normalize"
            )
    prompts = folder / "config_sentence_transformers.json"
    if prompts.is_file() and _read(prompts).get("default_prompt_name"):
        raise InputError(f"{prompts}: a default prompt is not supported; set default_prompt_name to null")
    lengths = result.transformer / _LENGTH_FILE
    if lengths.is_file():
        settings = _read(lengths)
        result.max_length = settings.get("max_seq_length")
        result.lower_case = bool(settings.get("do_lower_case"))
    return result


def write_sentence_folder(folder: Path, layout: SentenceFolder, width: int) -> None:
    """Write all but the transformer and its tokenizer; width is the transformer's."""
    linears = [(layer, layout.dense[k + 1]) for k, layer in enumerate(layout.dense) if isinstance(layer, nn.Linear)]
    names = ["Transformer", "Pooling", *["Dense"] * len(linears), "Normalize"]
    modules = [
        {"idx": k, "name": str(k), "path": f"{k}_{name}" if k else "", "type": f"sentence_transformers.models.{name}"}
        for k, name in enumerate(names)
    ]
    _write(folder / "modules.json", modules)
    _write(folder / _LENGTH_FILE, {"max_seq_length": layout.max_length, "do_lower_case": layout.lower_case})
    pooling = {flag: mode == layout.pooling for mode, flag in POOLING_FLAGS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **pooling})
    for k, (linear, activation) in enumerate(linears, start=2):
        path = folder / f"{k}_Dense"
        settings = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
            "activation_function": f"torch.nn.modules.{'linear' if type(activation) is nn.Identity else 'activation'}."
            f"{type(activation).__name__}",
        }
        _write(path / "config.json", settings)
        weights = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _pooling(path: Path) -> str:
    settings = _read(path)
    chosen = [mode for mode, flag in POOLING_FLAGS.items() if settings.get(flag)]
    if "pooling_mode" in settings:  # sentence-transformers since 5.3
        chosen = [settings["pooling_mode"]] if isinstance(settings["pooling_mode"], str) else settings["pooling_mode"]
    if len(chosen) != 1 or chosen[0] not in POOLING_FLAGS or settings.get("pooling_mode_weightedmean_tokens"):
        raise InputError(
            f"{path}: pooling {chosen or 'of an unknown mode'} is not supported; it must be one of "
            f"{', '.join(POOLING_FLAGS)}"
        )
    return chosen[0]


def _dense(folder: Path) -> list[nn.Module]:
    """[Linear, activation]."""
    settings = _read(folder / "config.json")
    name = settings.get("activation_function", "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    if name not in ACTIVATIONS:
        raise InputError(f"{folder / 'config.json'}: activation {name} is not one of {', '.join(ACTIVATIONS)}")
    shape, bias = (settings["in_features"], settings["out_features"]), settings.get("bias", True)
    linear = nn.utils.skip_init(nn.Linear, *shape, bias=bias)  # draws no random numbers
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not safe.is_file() and not pickled.is_file():
        raise InputError(f"{folder}: no {safe.name}; copy the whole folder again")
    weights = load_file(safe) if safe.is_file() else torch.load(pickled, map_location="cpu", weights_only=True)
    try:
        linear.load_state_dict({key.removeprefix("linear."): tensor for key, tensor in weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the weights do not fit config.json ({reason})") from error
    return [linear, ACTIVATIONS[name]()]


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); copy the whole model folder again") from error


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
