"""LoRA: what trains, what is stored, and that a merged model answers the same."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from models.checkpoint import main
from models.checkpoints.folder import build_ctinstruct, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.generation import generate
from models.language.loading import load_language_model
from models.language.lora import LoraSettings, add_lora
from models.language.tiny_language_model import build_tiny_language_model
from models.parameters import freeze_encoder, freeze_unused, parameter_counts, print_parameters
from tests.tiny_model import VISION, collate, make_sample, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A language model folder, as a hub would give it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(3)
    build_tiny_language_model(tokenizer, layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapted(base):
    language_model, tokenizer = load_language_model(base)
    settings = LoraSettings(base, rank=4, dropout=0.0)
    model = build_ctinstruct(VISION, add_lora(language_model, tokenizer, settings), tokenizer)
    freeze_unused(model)
    return model


def step(model, kind="segmentation"):
    model.eval()  # batch statistics stay, so that the loss is a function of the weights alone
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(collate([make_sample(kind, model.tokenizer)], model.tokenizer)).loss.backward()
    optimiser.step()


def test_an_adapted_model_answers(adapted):
    batch = collate([make_sample("yes_no", adapted.tokenizer, answered=False)], adapted.tokenizer)
    (prediction,) = generate(adapted.eval(), batch, num_beams=2, max_new_tokens=4)
    assert 1 <= len(prediction.token_ids) <= 4


def test_adapters_new_rows_and_everything_but_the_language_model_train(adapted):
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    freeze_encoder(adapted)
    for _ in range(2):  # at the first step one factor of each adapter is zero, and so is the other's gradient
        step(adapted)
    changed = {name for name, tensor in adapted.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("lora_A" in name for name in changed) and any("lora_B" in name for name in changed)
    assert {name for name in changed if "trainable_tokens_delta" in name}
    assert any(name.startswith("vision.bridger") for name in changed)
    assert any(name.startswith("vision.decoder") for name in changed)
    assert not any(name.startswith("vision.encoder") for name in changed)
    frozen = [n for n in changed if n.startswith("language_model") and "lora_" not in n and "tokens_delta" not in n]
    assert not frozen


def test_the_table_tells_adapters_and_new_rows_from_the_frozen_rest(adapted, capsys):
    freeze_encoder(adapted)
    counts = parameter_counts(adapted)
    hidden, layers, rank = 128, 2, 4
    key_width = hidden // 2  # two key-value heads of four
    assert counts["LoRA adapters"] == (layers * rank * (2 * hidden + hidden + key_width),) * 2
    rows, trained_rows = counts["rows of new tokens"]
    assert rows == trained_rows and rows % hidden == 0
    assert counts["language model"][1] == 0 and counts["vision encoder"][1] == 0
    assert counts["mask decoder"][1] > 0 and counts["projector"][0] == counts["projector"][1]
    assert sum(total for total, _ in counts.values()) == sum(p.numel() for p in adapted.parameters())
    print_parameters(adapted)
    assert "LoRA adapters" in capsys.readouterr().out


def test_a_lora_checkpoint_is_small_and_loads(adapted, tmp_path):
    step(adapted)
    save_checkpoint(adapted, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not [name for name in stored if "base_layer" in name or ("mlp" in name and "language_model" in name)]
    loaded = load_checkpoint(tmp_path)
    for name, tensor in adapted.state_dict().items():
        if name in stored:
            assert torch.equal(tensor, loaded.state_dict()[name]), name
    sample = collate([make_sample("diagnosis", adapted.tokenizer)], adapted.tokenizer)
    assert loaded(sample).loss.item() == pytest.approx(adapted.eval()(sample).loss.item(), rel=1e-5)


def test_merging_by_command_gives_the_same_answers(adapted, tmp_path, capsys, monkeypatch):
    step(adapted)
    record = adapted.vision.preprocessing.with_orientation("as_stored")
    monkeypatch.setattr(adapted.vision, "preprocessing", record)
    save_checkpoint(adapted, tmp_path / "lora")
    assert main(["merge", str(tmp_path / "lora"), str(tmp_path / "merged")]) == 0
    merged = load_checkpoint(tmp_path / "merged")
    assert merged.vision.preprocessing == record
    assert not any("lora" in name for name in merged.state_dict())
    for kind in ("segmentation", "two_volumes"):
        sample = collate([make_sample(kind, adapted.tokenizer)], adapted.tokenizer)
        assert merged(sample).loss.item() == pytest.approx(adapted.eval()(sample).loss.item(), rel=1e-4)
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "twice")]) == 2
    assert "holds no LoRA adapter" in capsys.readouterr().err


def test_layers_that_are_not_there_are_named(base):
    language_model, tokenizer = load_language_model(base)
    with pytest.raises(InputError, match="--lora_modules c_attn"):
        add_lora(language_model, tokenizer, LoraSettings(base, modules=("c_attn",)))
