"""A model is saved, goes to the hub with a card, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.errors import CheckpointError, InputError
from models import CTInstruct
from models.checkpoints.model_card import model_card, read_metrics
from models.hub.selection import HubError
from models.language.lora import LoraSettings
from tests.hub_server import TOKEN
from tests.tiny_model import assert_equal_models, tiny_ctinstruct

ROOT = Path(__file__).resolve().parents[1]
TRAINING = {
    "recipe": "phantom",
    "preset": "tiny",
    "data": "manifests a|b.json",
    "departures": {"betas": {"published": [0.9, 0.999], "this_run": [0.9, 0.95]}},
}


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint folder with the record of its training."""
    from models.checkpoints.folder import save_checkpoint

    return save_checkpoint(model, tmp_path_factory.mktemp("model"), training=TRAINING)


def test_a_model_goes_to_the_hub_and_comes_back(hub, folder, model, tmp_path, monkeypatch):
    estimate = {"value": 0.8125, "low": 0.7, "high": 0.9, "n": 16, "patients": 8}
    metrics = {
        "run": {"benchmark": "CT-RATE-VQA", "control": "none"},
        "tasks": {
            "open_vqa": {"metrics": {"bleu_1": estimate, "bertscore": {"value": None}}},
            "diagnosis": {"label_sets": {"CT-RATE": {"metrics": {"auc": {**estimate, "low": None}}}}},
        },
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    own = CTInstruct.from_pretrained(folder, dtype=torch.float32)
    with pytest.raises(HubError, match=r"upload to owner/mine: .*hf auth login"):
        own.push_to_hub("owner/mine")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = own.push_to_hub("owner/mine", metrics=tmp_path / "metrics.json", licence="cc-by-nc-sa-4.0")
    repository = hub.repositories["owner/mine"]
    assert repository.private and address == f"{hub.url}/owner/mine/commit/{hub.commit_of('owner/mine', 'main')}"
    stored = repository.revisions["main"]
    assert not any(path.endswith((".bin", ".pt")) for path in stored)
    card = stored["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    for line in (
        "| recipe | phantom |",
        "| data | manifests a\\|b.json |",
        "| `betas` | 0.9, 0.999 | 0.9, 0.95 |",
        "| CT-RATE-VQA | open_vqa | bleu_1 | 0.812 | 0.700 to 0.900 | 16 |",
        "| CT-RATE-VQA | diagnosis, CT-RATE | auc | 0.812 |  | 16 |",
        'model = CTInstruct.from_pretrained("owner/mine")',
    ):
        assert f"\n{line}\n" in card, card
    assert "bertscore" not in card and "not a medical device" in card
    back = CTInstruct.from_pretrained("owner/mine")
    assert type(back) is CTInstruct and back.recipe == TRAINING and not back.training
    assert_equal_models(back, model)
    own.push_to_hub("owner/mine", metrics=metrics)  # again: the repository is there
    assert hub.repositories["owner/mine"].revisions["main"]["README.md"].startswith(b"---\nlicense: other\n")


def test_saving_keeps_the_record_of_training(folder, tmp_path):
    again = CTInstruct.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert json.loads((again / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_the_card_shows_the_record_of_preprocessing(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "preprocessing": {"orientation": "as_stored"}}))
    assert '"orientation": "as_stored"' in model_card(tmp_path, "owner/mine")
    config["lora"] = {"base": "owner/llm@v2", "rank": 8, "modules": ["q_proj"]}
    del config["training"]
    config.pop("preprocessing", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    card = model_card(tmp_path, "owner/mine")
    assert "\nbase_model: owner/llm\n" in card and "LoRA of rank 8 on q_proj of owner/llm@v2" in card
    assert "does not say how it was trained" in card and "no record of its preprocessing" in card


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": []}', '{"a": {}}'])
def test_metrics_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json: "):
        read_metrics(tmp_path / "metrics.json")


def test_an_adapter_of_a_local_model_is_not_uploaded(hub, folder, monkeypatch):
    own = CTInstruct.from_pretrained(folder)
    monkeypatch.setattr("models.checkpoints.pretrained.lora_settings", lambda model: LoraSettings("runs/a/b"))
    with pytest.raises(CheckpointError, match="merge the adapter first"):
        own.push_to_hub("owner/mine")
    assert hub.requests == []


def test_the_package_loads_nothing_before_it_is_asked():
    program = "import sys, models, models.hub.download; print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["False", "False"], result.stderr
