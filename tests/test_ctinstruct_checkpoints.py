"""Checkpoints of CTInstruct: the same answers after loading, and damage by its name."""

from __future__ import annotations

import json

import pytest
import torch

from datasets.errors import CheckpointError
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from tests.tiny_model import collate, make_sample, tiny_ctinstruct


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


def test_a_checkpoint_gives_the_same_answers(tmp_path, model):
    save_checkpoint(model, tmp_path, max_shard_size="2MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_checkpoint(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    batch = collate([make_sample("segmentation", model.tokenizer, 9)], model.tokenizer)
    assert loaded(batch).loss.item() == pytest.approx(model(batch).loss.item(), rel=1e-6)
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not a JSON file"),
        (lambda f: edit_config(f, lambda c: c.update(format="other")), "its format is 'other'"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "damaged or incomplete"),
        (
            lambda f: edit_config(f, lambda c: c["vision"].update(query_layers=3)),
            "keys are missing, the first is vision",
        ),
        (lambda f: edit_config(f, lambda c: c["vision"].update(query_layers=1)), "unexpected key vision"),
        (lambda f: edit_config(f, lambda c: c["vision"].update(mask_hidden=64)), "has shape"),
        (lambda f: edit_config(f, lambda c: c["vision"].update(colour=1)), "unknown field colour"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, model, damage, complaint):
    save_checkpoint(model, tmp_path)
    damage(tmp_path)
    with pytest.raises((CheckpointError, ValueError), match=complaint):
        load_checkpoint(tmp_path)
