"""The preprocessing record of a checkpoint: an entry of its config.json, or what is known of one without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.errors import CheckpointError
from datasets.volume.preprocessing import Preprocessing
from models.checkpoints.json_object import made_of, read_object
from models.configuration import VISION_PRESETS, VisionConfig

ENTRY = "preprocessing"
RELEASED_ENTRY = "ctinstruct_preprocessing"  # in the release's layout, beside the entries of transformers
RELEASED_VISION = "ctinstruct_vision"
_CONFIG = "config.json"


def read_preprocessing(folder: str | Path) -> Preprocessing:
    """The record of a model folder of any kind: CTInstruct, pretrained vision, or the release; weights are not read.

    Raises CheckpointError where there is no config.json or it is no JSON object, InputError where its record is wrong.
    """
    path = Path(folder) / _CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {_CONFIG}; give a folder that a training run or a conversion wrote")
    config = read_object(path)
    if "format" not in config and "model_type" in config:
        return released_preprocessing(config, released_vision(config, path), path)
    return stored_preprocessing(config, made_of({"vision": {}, **config}, "vision", path, VisionConfig.from_dict), path)


def stored_preprocessing(config: Mapping[str, Any], vision: VisionConfig, path: str | Path) -> Preprocessing:
    """The record in the config.json of one of this project's folders, CTInstruct or pretrained vision.

    One without a record was written before there were any: its volumes were cropped, clipped and normalised; their
    orientation and resize rule are those that its training departed to, as its entry "training" lists them.
    """
    if ENTRY in config:
        return _checked(Preprocessing.from_dict(config[ENTRY], str(path)), vision, path)
    training = config.get("training")
    departures = training.get("departures") if isinstance(training, Mapping) else None
    orientation, resize = "RAS", "published"
    if isinstance(departures, Mapping):  # a setting as the release had it is not among them
        orientation = departures.get("orientation", {}).get("this_run", "as_stored")
        resize = departures.get("resize", {}).get("this_run", "published")
    return Preprocessing.standard(vision.crop_size, vision.patch_max, orientation, resize)


def released_vision(config: Mapping[str, Any], path: Path) -> VisionConfig:
    """The vision network of a folder in the release's layout: the published one, unless config.json says another."""
    entries = {RELEASED_VISION: VISION_PRESETS["full"].to_dict(), **config}
    return made_of(entries, RELEASED_VISION, path, VisionConfig.from_dict)


def released_preprocessing(config: Mapping[str, Any], vision: VisionConfig, path: str | Path) -> Preprocessing:
    """The record of a folder in the release's layout: the release's own, unless a conversion stored another."""
    if RELEASED_ENTRY in config:
        return _checked(Preprocessing.from_dict(config[RELEASED_ENTRY], str(path)), vision, path)
    return Preprocessing.released(vision.crop_size, vision.patch_max)


def _checked(record: Preprocessing, vision: VisionConfig, path: str | Path) -> Preprocessing:
    """The record, if its patches are the encoder's."""
    for name in ("crop_size", "patch_max"):
        ours, encoder = getattr(record, name), getattr(vision, name)
        if ours != encoder:
            raise CheckpointError(f"{path}: preprocessing.{name} is {ours}, but the vision network's is {encoder}")
    return record
