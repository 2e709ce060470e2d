"""A model folder with one damaged file is refused in one line that names the file, and a failed save harms nothing."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from datasets.errors import CheckpointError, InputError
from models.checkpoint import main
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.released import save_released
from models.ctinstruct import CTInstruct
from models.generation import generate
from tests.tiny_model import collate, make_sample, tiny_ctinstruct

SHARDS = "2MB"


@pytest.fixture(scope="module")
def model() -> CTInstruct:
    return tiny_ctinstruct().eval()


@pytest.fixture(scope="module")
def saved(model: CTInstruct, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(model, tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def _edit(folder: Path, entry: str, field: str | None, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    if field is None:
        config[entry] = value
    else:
        config[entry][field] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "content", [b"", b'{"format": ', b"[]", b"\xff\xfe{}", b"[" * 200_000, b'{"format": "\\ud800"}'], ids=repr
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_none(name: str, content: bytes, copied: Path) -> None:
    (copied / name).write_bytes(content)
    _refused(copied, name)


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        ("vision", None, None),
        ("vision", "crop_size", "large"),
        ("vision", "crop_size", [64, 64]),
        ("vision", "query_width", -128),
        ("vision", "query_layers", 10**12),
        ("vision", "query_dropout", "none"),
        ("vision", "encoder", 3),
        ("vision", "llm_width", 64),
        ("language_model", None, []),
        ("language_model", "model_type", "nonsense"),
        ("language_model", "hidden_size", "wide"),
        ("language_model", "num_attention_heads", 0),
        ("language_model", "is_encoder_decoder", True),
        ("generation", None, 3),
        ("generation", "num_beams", 0),
        ("generation", "temperature", "hot"),
        ("generation", "eos_token_id", "x"),
        ("preprocessing", None, []),
        ("lora", None, {"rank": 8}),
    ],
)
def test_a_damaged_field_of_config_json_is_named(entry: str, field: str | None, value: Any, copied: Path) -> None:
    _edit(copied, entry, field, value)
    message = _refused(copied, "config.json")
    assert entry in message
    assert entry == "language_model" or (field or entry) in message  # those fields are of transformers


def test_a_library_says_nothing_beside_the_line(copied: Path) -> None:
    _edit(copied, "language_model", "vocab_size", -1)
    transformers.logging.set_verbosity_warning()
    heard = BufferingHandler(100)
    transformers.logging.add_handler(heard)
    try:
        _refused(copied, "config.json")
    finally:
        transformers.logging.remove_handler(heard)
    assert [record.getMessage() for record in heard.buffer] == []
    assert transformers.logging.get_verbosity() == logging.WARNING


@pytest.mark.parametrize("content", ["", "{{ nobody.knows }}", "{% for", "Answer yes."])
def test_a_chat_template_that_cannot_ask_is_refused(content: str, copied: Path) -> None:
    (copied / "chat_template.jinja").write_text(content)
    _refused(copied, "chat_template.jinja")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../a.bin"}}']
)
def test_a_damaged_index_is_named(content: str, copied: Path) -> None:
    (copied / "model.safetensors.index.json").write_text(content)
    _refused(copied, "model.safetensors.index.json")


@pytest.mark.parametrize("content", ["", "[]", '{"num_beams": 0}', '{"temperature": "hot"}', '{"eos_token_id": "x"}'])
def test_a_damaged_generation_config_of_a_released_folder_is_named(
    content: str, model: CTInstruct, tmp_path: Path
) -> None:
    folder = save_released(model, tmp_path)
    (folder / "generation_config.json").write_text(content)
    _refused(folder, "generation_config.json")


@pytest.mark.parametrize("everywhere", [True, False])
def test_weights_with_nan_are_refused_by_name(everywhere: bool, copied: Path) -> None:
    name = "vision.mask_embed_proj.0.weight"
    tensors = load_file(copied / "model.safetensors")
    tensors[name][... if everywhere else (0, 0)] = torch.nan
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert f"{name} has NaN in" in _refused(copied, "model.safetensors")


def test_infinite_weights_are_not_taken_for_nan(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors["vision.mask_embed_proj.0.weight"][0, :2] = torch.tensor([torch.inf, -torch.inf])
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    load_checkpoint(copied)


@pytest.mark.parametrize("save", [save_checkpoint, save_released])
def test_a_full_disk_leaves_the_model_that_was_there(
    save: Callable[..., Path], model: CTInstruct, saved: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model.tokenizer, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save(model, copied)
    assert str(copied) in str(caught.value)
    found = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert found == {path.name: path.read_bytes() for path in saved.iterdir()}


def test_shards_of_an_earlier_save_do_not_come_back(model: CTInstruct, tmp_path: Path) -> None:
    other = tiny_ctinstruct(seed=1)
    save_checkpoint(other, tmp_path, max_shard_size=SHARDS)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_where_a_folder_belongs_is_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "file"
    target.write_text("keep")
    assert main(["convert", str(saved), str(target)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {target}: cannot be written")
    assert target.read_text() == "keep"
    with pytest.raises(InputError):
        load_checkpoint(target)


def _refused(folder: Path, name: str) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", [True, "x"])
def test_what_a_folder_says_of_outputs_changes_no_answer(value: Any, model: CTInstruct, copied: Path) -> None:
    for field in ("output_hidden_states", "output_attentions"):
        _edit(copied, "language_model", field, value)
    _edit(copied, "language_model", "return_dict", False)
    _edit(copied, "generation", "return_dict_in_generate", True)
    batch = collate([make_sample("open_vqa", model.tokenizer, answered=False)], model.tokenizer)
    texts = [generate(each, batch, 2, max_new_tokens=4)[0].text for each in (model, load_checkpoint(copied))]
    assert texts[0] == texts[1]
