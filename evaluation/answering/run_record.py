"""What an output folder's predictions were made with, so that a resumed run cannot mix answers of two models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from evaluation.predictions import RANK_FILES, write_json

FILE = "run.json"


def describe_checkpoint(folder: str | Path) -> dict[str, Any]:
    """A model folder and the sizes and times of its weight files: another model in the same place reads otherwise."""
    folder = Path(folder)
    weights = [path for ending in ("safetensors", "gguf", "bin") for path in sorted(folder.glob(f"*.{ending}"))]
    return {
        "folder": str(folder.resolve()),
        "weights": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in weights],
    }


def check_run(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """See that the predictions in ``folder``, if there are any, were made with ``settings``.

    Raises:
        InputError: they were not; names the first setting that differs.
    """
    path = Path(folder) / FILE
    if not path.is_file() or not any(Path(folder).glob(RANK_FILES)):
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error}); give another --output, or delete {folder}") from error
    now = json.loads(json.dumps(settings))
    for name in {**now, **before}:  # what one of the two does not name is off there
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder}: holds predictions made with another {name} ({_short(before.get(name))}, now "
                f"{_short(now.get(name))}); give another --output, or delete the folder to answer anew"
            )


def record_run(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Write ``settings`` down for `check_run`; one rank does it, before the first prediction."""
    write_json(dict(settings), Path(folder) / FILE)


def _short(value: Any) -> str:
    return str(value["folder"] if isinstance(value, dict) and "folder" in value else value)
