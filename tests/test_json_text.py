"""Damaged JSON of users is refused in one line by every reader, and so is a file with a line break in its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.json_text import parse_json
from datasets.manifest import load_manifest
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.volume.loading import read_volume
from evaluation.predictions import read_predictions
from models.checkpoints.model_card import read_metrics
from training.deepspeed_json import read_json

DEEP = "[" * 200_000
DAMAGED = {"deep list": DEEP, "deep object": '{"a":' * 200_000, "half a pair": '[{"answer": "\\uD800"}]', "text": "no"}


def _manifest(path: Path) -> None:
    load_manifest(path, check_files=False)


READERS: dict[str, Callable[[Path], object]] = {
    "manifest": _manifest,
    "pretraining": lambda path: load_pretraining_manifest(path, "image_text"),
    "predictions": read_predictions,
    "metrics": read_metrics,
    "DeepSpeed": read_json,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("reader", READERS)
def test_refused_in_one_line(reader: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(DAMAGED[damage])
    with pytest.raises(InputError) as caught:
        READERS[reader](path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_a_line_of_json_lines_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"answer": "yes"}\n' + DEEP + "\n")
    with pytest.raises(InputError, match="row 1, not JSON"):
        _manifest(path)


@pytest.mark.parametrize("value", ["\U0001f600", "ä", "\\ud800", "\\\\ud83d", '"', "a\nb"])
def test_what_is_no_half_pair_is_read(value: str) -> None:
    assert parse_json(json.dumps([value])) == [value]
    assert parse_json(json.dumps({value: 1}, ensure_ascii=False)) == {value: 1}


@pytest.mark.parametrize("read", [read_volume, _manifest])
def test_a_line_break_in_a_name_does_not_split_the_message(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a\nerror: all is well\r\x1b[2K.json"
    path.write_text("no")
    with pytest.raises(InputError, match=r"a\\nerror: all is well\\r\\x1b\[2K\.json: ") as caught:
        read(path)
    assert str(caught.value).isprintable()
