"""What pretraining leaves behind: a folder that instruction tuning, evaluation and further pretraining start from.

    config.json                 the vision configuration, and how volumes were prepared
    vision.safetensors          encoder and mask decoder, named as in `VisionModel`
    objectives.safetensors      the rest of a `PretrainingModel`: projections and scales (only `save_pretraining`)

The projector to the language model and the projection of its hidden states to mask queries are not part of it:
pretraining does not touch them, and their width is the language model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from datasets.errors import InputError
from models.checkpoints.json_object import made_of, read_object
from models.checkpoints.preprocessing import ENTRY, read_preprocessing
from models.checkpoints.weight_files import check_numbers
from models.checkpoints.whole_folder import whole_folder
from models.configuration import VisionConfig
from models.extensions.pretraining import pretraining_model
from models.extensions.settings import PretrainingExtensions
from models.pretraining import PretrainingModel
from models.vision import VisionModel

FORMAT = "ctinstruct-vision-1"
CONFIG = "config.json"
VISION_WEIGHTS = "vision.safetensors"
OBJECTIVE_WEIGHTS = "objectives.safetensors"
_FOR_THE_LANGUAGE_MODEL = ("bridger.", "qwen2biolord.")
_TOKENS_TO_TEXTS = ("image_projection.weight", "image_projection.bias")
_CENTRE = "centre.mean"
_LABELS_TO_TEXTS = ("text_projection.weight", "text_projection.bias")
_NOT_OF_THE_OBJECTIVE = ("vision.", "deep_supervision.", "token_classification.")  # the last two serve training alone


class PretrainedVisionError(InputError):
    """A folder of pretrained weights cannot be used; the message names the file and the key."""


def save_pretrained_vision(vision: VisionModel, folder: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write configuration and weights of encoder and mask decoder, and how they were trained."""
    return _save_folder(vision, Path(folder), training, {})


def _save_folder(
    vision: VisionModel, folder: Path, training: Mapping[str, Any] | None, more: Mapping[str, Mapping[str, Tensor]]
) -> Path:
    """more: further files of weights by name."""
    config: dict[str, Any] = {"format": FORMAT, "vision": vision.config.to_dict()}
    config[ENTRY] = vision.preprocessing.to_dict()
    if training:
        config["training"] = dict(training)
    with whole_folder(folder) as part:
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        for name, tensors in {VISION_WEIGHTS: _pretrained_part(vision), **more}.items():
            _save(tensors, part / name)
    return folder


def load_pretrained_vision(folder: str | Path) -> tuple[VisionConfig, dict[str, Tensor]]:
    """-> the configuration that the weights were made with, and the weights by their names in `VisionModel`.

    Raises InputError where a file is missing, damaged or of another format.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise PretrainedVisionError(f"{folder}: no {CONFIG}; give the model folder that a pretraining run wrote")
    config = read_object(path)
    if config.get("format") != FORMAT:
        raise PretrainedVisionError(
            f"{path}: its format is {config.get('format')!r}, a pretrained vision model's is {FORMAT!r}"
        )
    return made_of(config, "vision", path, VisionConfig.from_dict), _load(folder / VISION_WEIGHTS)


def load_into(vision: VisionModel, folder: str | Path) -> None:
    """Give `vision` the pretrained encoder and mask decoder; its parts for the language model stay as they are.

    Its preprocessing becomes the folder's, with the patches of its own configuration.  The language model's width may
    differ, everything else must be the same.

    Raises PretrainedVisionError, before any weight changes, naming the first key that is missing, unexpected or of
    another shape.
    """
    _, weights = load_pretrained_vision(folder)
    record = read_preprocessing(folder)
    _copy(weights, _pretrained_part(vision), Path(folder) / VISION_WEIGHTS)
    vision.preprocessing = replace(record, crop_size=vision.config.crop_size, patch_max=vision.config.patch_max)


def tokens_to_texts(vision: VisionModel, folder: str | Path) -> nn.Linear:
    """Pretraining's projection of an encoder's tokens, less what all share, to the space of texts.

    Raises PretrainedVisionError where the folder has no objectives (released weights, or of `save_pretrained_vision`),
    or damaged ones, or ones of another width.
    """
    return _projection(folder, _TOKENS_TO_TEXTS, vision.config.token_width)


def labels_to_texts(vision: VisionModel, folder: str | Path) -> nn.Linear:
    """Pretraining's projection of the text encoder's embeddings to the same space; as `tokens_to_texts`."""
    return _projection(folder, _LABELS_TO_TEXTS, vision.config.query_width)


def knows_texts(folder: str | Path) -> bool:
    """Whether a model folder has pretraining's projections, of which `tokens_to_texts` reads one."""
    return (Path(folder) / OBJECTIVE_WEIGHTS).is_file()


def _projection(folder: str | Path, names: tuple[str, str], width: int) -> nn.Linear:
    path = Path(folder) / OBJECTIVE_WEIGHTS
    if not path.is_file():
        raise PretrainedVisionError(
            f"{folder}: no {OBJECTIVE_WEIGHTS}, so no projection to texts to start from; give the model folder of a "
            "pretraining run, or leave out --grounded_start and --projector_start texts"
        )
    tensors = _load(path)
    if missing := [name for name in names if name not in tensors]:
        raise PretrainedVisionError(f"{path}: key {missing[0]} is missing; copy the whole folder again")
    weight, bias = (tensors[name] for name in names)
    if weight.shape[1] != width:
        raise PretrainedVisionError(f"{path}: {names[0]} takes {weight.shape[1]} channels, the model has {width}")
    if names == _TOKENS_TO_TEXTS and _CENTRE in tensors:
        bias = bias - weight @ tensors[_CENTRE]
    layer = nn.utils.skip_init(nn.Linear, *reversed(weight.shape))
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def save_pretraining(model: PretrainingModel, folder: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a whole pretraining model, for evaluation; `load_into` reads the folder as well.

    training: how it was trained, for config.json: recipe, and what departs from the published one.
    """
    return _save_folder(model.vision, Path(folder), training, {OBJECTIVE_WEIGHTS: _objective_part(model)})


def load_pretraining(folder: str | Path) -> PretrainingModel:
    """Inverse of `save_pretraining`, on the CPU in float32 and in evaluation mode.

    The extensions that a model goes on with after training are told by the names of its weights.

    Raises PretrainedVisionError as `load_into` does.
    """
    folder = Path(folder)
    config, weights = load_pretrained_vision(folder)
    objectives = _load(folder / OBJECTIVE_WEIGHTS)
    extensions = PretrainingExtensions(
        running_centre=_CENTRE in objectives, prevalence=0.5 if "classification_bias" in objectives else None
    )
    model = pretraining_model(VisionModel(config), extensions)
    model.vision.preprocessing = read_preprocessing(folder)
    _copy(weights, _pretrained_part(model.vision), folder / VISION_WEIGHTS)
    _copy(objectives, _objective_part(model), folder / OBJECTIVE_WEIGHTS)
    return model.eval()


def _pretrained_part(vision: VisionModel) -> dict[str, Tensor]:
    return {name: part for name, part in vision.state_dict().items() if not name.startswith(_FOR_THE_LANGUAGE_MODEL)}


def _objective_part(model: nn.Module) -> dict[str, Tensor]:
    return {name: part for name, part in model.state_dict().items() if not name.startswith(_NOT_OF_THE_OBJECTIVE)}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # copies, because DeepSpeed keeps all parameters as views of one flat tensor
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PretrainedVisionError(f"{path.parent}: no {path.name}; copy the whole folder again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PretrainedVisionError(f"{path}: damaged or incomplete ({error}); copy it again") from error
    for name, tensor in tensors.items():
        check_numbers(path, name, tensor)
    return tensors


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], targets: Mapping[str, Tensor], path: Path) -> None:
    missing, unexpected = targets.keys() - weights.keys(), weights.keys() - targets.keys()
    for problem, names in (("is missing", missing), ("is unexpected", unexpected)):
        if names:
            raise PretrainedVisionError(
                f"{path}: key {min(names)} {problem} ({len(names)} such keys); the weights belong to another encoder"
            )
    for name, target in targets.items():
        if weights[name].shape != target.shape:
            raise PretrainedVisionError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the model {tuple(target.shape)}; use the "
                "preset or configuration that pretraining used"
            )
    for name, target in targets.items():
        target.copy_(weights[name])
