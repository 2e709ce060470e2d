"""How a training run prepares its volumes: as its weights are used to, unless the settings say otherwise on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from datasets.volume.preprocessing import Preprocessing
from models.checkpoints.preprocessing import read_preprocessing
from training.settings import TrainingSettings

OPTIONS = ("orientation", "resize", "crop_size", "patch_max", "field_of_view", "clip_hu", "normalisation")
Settings = TypeVar("Settings", bound=TrainingSettings)


def resolve_preprocessing(
    start: Path | Preprocessing | None, new: Preprocessing, trained: str, settings: Any
) -> tuple[Preprocessing, list[str]]:
    """The run's record, and a line for each setting that departs from what its weights were trained with.

    start: the model folder that training starts from, or its record; None takes ``new``.  trained: names it.
    settings: has each of OPTIONS, None where it is not given, and override_preprocessing.

    Raises InputError for a setting that differs from the start, unless it is overridden.
    """
    given = {name: getattr(settings, name) for name in OPTIONS}
    if start is None:
        return new.with_options("a new model", True, given)[0], []
    record = read_preprocessing(start) if isinstance(start, Path) else start
    return record.with_options(trained, settings.override_preprocessing, given)


def with_preprocessing(settings: Settings, record: Preprocessing) -> Settings:
    """The settings with how the run prepares its volumes, to be shown and kept."""
    changes: dict[str, Any] = {
        "orientation": record.orientation,
        "resize": record.resize,
        "field_of_view": record.field_of_view,
        "clip_hu": record.clip_hu,
        "normalisation": record.normalisation,
    }
    return replace(settings, **changes)
