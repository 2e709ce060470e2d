"""The JSON files of a model folder, read with one clear line for each way in which they can be damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from datasets.errors import CheckpointError, InputError
from datasets.json_text import parse_json

T = TypeVar("T")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError, naming the file, where it cannot be read or holds none."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    except ValueError as error:  # also what is no UTF-8
        raise CheckpointError(f"{path}: not a JSON file ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; copy it again")
    return value


def made_of(config: Mapping[str, Any], entry: str, path: Path, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of an entry of config.json; CheckpointError, naming file and entry, where it cannot."""
    values = config.get(entry)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: {entry} is {type(values).__name__}, not an object; copy the file again")
    try:
        return make(values)
    except InputError as error:
        raise CheckpointError(f"{path}: {entry}: {error}") from error
    except Exception as error:  # a library raises whatever it stumbles over
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(f"{path}: {entry} is damaged ({type(error).__name__}: {reason})") from error
