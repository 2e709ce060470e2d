"""Writers of the files that sets with labels, reports and questions consist of, each by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.replicas.truth import CaseTruth


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, ensure_ascii=False))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], encoding: str = "utf-8") -> Path:
    """Fields with a comma, a quote or a line break stand in quotes, and a quote is doubled: RFC 4180."""
    lines = [",".join(map(_field, row)) for row in [header, *rows]]
    return write_text(path, "\r\n".join(lines) + "\r\n", encoding)


def _field(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n\r') else text


def write_slice(path: Path, seed: int, shape: tuple[int, int] = (16, 18)) -> Path:
    """A grey PNG or JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(1, 255, shape, dtype=np.uint8)).save(path)
    return path


def write_array(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def seen(patient: str, split: str | None, **known: Any) -> CaseTruth:
    """The truth of a case of which no voxel is told."""
    return CaseTruth(patient=patient, split=split, **known)


def only_present(labels: Sequence[str], present: Sequence[str]) -> Mapping[str, int]:
    """1 for the labels that are present, 0 for the others."""
    assert set(present) <= set(labels)
    return {label: int(label in present) for label in labels}
