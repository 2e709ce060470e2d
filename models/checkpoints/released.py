"""The released files: their keys, and what they are called here.

A released CTInstruct folder has ``model.*`` and ``lm_head.*`` as Qwen2-VL in transformers 4.48, ``visual.*`` for
encoder, projector and mask decoder, and a linear layer for each disease, ``rad_class_heads.N`` and
``ctrate_class_heads.N``.
A released vision file, from pretraining, has ``module.visual_encoder.*`` and the mask decoder's parts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from datasets.errors import CheckpointError
from datasets.volume.preprocessing import Preprocessing
from models.checkpoints.folder import (
    CONFIG,
    build_without_storage,
    check_width,
    finish_loading,
    load_tokenizer,
    quantizing,
    stored_state,
)
from models.checkpoints.json_object import made_of, read_object
from models.checkpoints.preprocessing import RELEASED_ENTRY, RELEASED_VISION, released_preprocessing, released_vision
from models.checkpoints.search_options import search_options
from models.checkpoints.weight_files import Target, assign_weights, save_weights, stored_tensors
from models.checkpoints.whole_folder import whole_folder
from models.ctinstruct import CTInstruct, MakeModel
from models.encoders.positions import sinusoidal_positions
from models.language.quantization import Quantization
from models.vision import VisionModel

HEADS = {"rad_class_heads": "RadChestCT", "ctrate_class_heads": "CT-RATE"}
GENERATION_CONFIG = "generation_config.json"
_HEAD_KEY = re.compile(r"(rad_class_heads|ctrate_class_heads)\.(\d+)\.(weight|bias)")
_VISION_FILE = "module."
_VISION_FILE_PARTS = ("transformer_decoder.", "decoder.", "projection_layer.", "mask_embed_proj.")
_POSITIONS = "module.pos_embedding"
_TUNING_PARTS = ("bridger.", "qwen2biolord.")  # of the vision model, trained only with the language model


def from_released(key: str) -> Target | None:
    """Where a key of a released CTInstruct folder goes."""
    head = _HEAD_KEY.fullmatch(key)
    if head:
        return Target(f"diagnosis_heads.heads.{HEADS[head[1]]}.{head[3]}", int(head[2]))
    if key.startswith("visual."):
        return Target("vision." + key.removeprefix("visual."))
    if key.startswith(("model.", "lm_head.")):
        return Target("language_model." + key)
    return None


def to_released(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The released keys and tensors of one of our state dict; a set of heads becomes a layer a disease."""
    if name.startswith("vision."):
        return {"visual." + name.removeprefix("vision."): tensor}
    if name.startswith("language_model."):
        return {name.removeprefix("language_model."): tensor}
    prefixes = {label_set: prefix for prefix, label_set in HEADS.items()}
    *_, label_set, part = name.split(".")
    return {f"{prefixes[label_set]}.{row}.{part}": tensor[row : row + 1] for row in range(len(tensor))}


def load_released(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    make: MakeModel = CTInstruct,
    quantize: Quantization | None = None,
) -> CTInstruct:
    """Load a released CTInstruct folder; every tensor of it must arrive and none may be missing.

    The release has neither a vision configuration nor a preprocessing record: they are the published ones, unless
    config.json has ``ctinstruct_vision`` and ``ctinstruct_preprocessing``, as ``save_released`` writes them.

    Raises:
        CheckpointError: a missing, unexpected or misshapen key, or an unusable file.
    """
    folder = Path(folder)
    entries = read_object(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder)
        text_config = config.get_text_config()
    except Exception as error:  # transformers raises whatever it stumbles over
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{folder / CONFIG}: is damaged ({reason}); copy it again from the release") from error
    text_config.tie_word_embeddings = bool(getattr(config, "tie_word_embeddings", False))
    vision = released_vision(entries, folder / CONFIG)
    if RELEASED_VISION in entries:
        check_width(vision, text_config, folder / CONFIG)
    preprocessing = released_preprocessing(entries, vision, folder / CONFIG)
    model = build_without_storage(vision, text_config, load_tokenizer(folder), make)
    model.vision.preprocessing = preprocessing
    convert = quantizing(model, quantize)
    assign_weights(model, folder, device=device, dtype=dtype, rename=from_released, convert=convert)
    return finish_loading(model, device, released_generation(folder))


def released_generation(folder: Path) -> dict[str, Any]:
    """How the release searches for answers: what its generation_config.json says; nothing where there is none.

    Raises:
        CheckpointError: the file is not JSON, or not an object.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return {}
    found = {
        key: value
        for key, value in read_object(path).items()
        if key != "transformers_version" and not key.startswith("_")
    }
    return made_of({GENERATION_CONFIG: found}, GENERATION_CONFIG, path, search_options)


def save_released(model: CTInstruct, folder: str | Path, max_shard_size: str = "4GB") -> Path:
    """Write ``model`` with the released names and layout.

    Raises:
        CheckpointError: its language model is not of the Qwen2-VL family, which is all that the release can hold.
    """
    text_config = model.language_model.config
    if text_config.model_type != "qwen2_vl_text":
        raise CheckpointError(
            f"{folder}: the release holds Qwen2-VL language models only, this one is {text_config.model_type}"
        )
    folder = Path(folder)
    values = {key: value for key, value in text_config.to_dict().items() if key != "rope_parameters"}
    rope = text_config.rope_parameters
    values |= {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": list(rope["mrope_section"])},
        "tie_word_embeddings": bool(getattr(text_config, "tie_word_embeddings", False)),
        RELEASED_VISION: model.config.to_dict(),
        RELEASED_ENTRY: model.vision.preprocessing.to_dict(),
    }
    search = model.language_model.generation_config.to_diff_dict()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in stored_state(model).items():
        tensors |= to_released(name, tensor)
    with whole_folder(folder) as part:
        (part / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        (part / GENERATION_CONFIG).write_text(json.dumps(search, indent=2) + "\n")
        model.tokenizer.save_pretrained(part)
        save_weights(tensors, part, max_shard_size)
    return folder


def load_released_vision(vision: VisionModel, file: str | Path) -> None:
    """Give ``vision`` the encoder and mask decoder of a released pretraining file; the projector stays as it is.

    The file says nothing of its inputs: the release's preprocessing goes with it.

    Raises:
        CheckpointError: a missing, unexpected or misshapen key, positions that differ from this code's formula, or an
            unusable file.
    """
    path = Path(file)
    positions = next((tensor for _, key, tensor in stored_tensors(path) if key == _POSITIONS), None)
    grid = vision.config.inplane_grid
    expected = sinusoidal_positions(grid, vision.config.query_width)
    if positions is not None and (
        positions.numel() != expected.numel()
        or not torch.allclose(positions.float().reshape(expected.shape), expected, atol=1e-4)
    ):
        raise CheckpointError(f"{path}: {_POSITIONS} is not the 2D sinusoid of a {grid[0]} x {grid[1]} grid")

    def rename(key: str) -> Target | None:
        if key.startswith("module.visual_encoder."):
            return Target("encoder." + key.removeprefix("module.visual_encoder."))
        name = key.removeprefix(_VISION_FILE)
        return Target(name) if key.startswith(_VISION_FILE) and name.startswith(_VISION_FILE_PARTS) else None

    assign_weights(
        vision,
        path,
        rename=rename,
        optional=lambda name: name.startswith(_TUNING_PARTS),
        ignored=frozenset({_POSITIONS}),
    )
    vision.preprocessing = Preprocessing.released(vision.config.crop_size, vision.config.patch_max)
