"""Released files: a synthetic folder with their exact names and layout loads whole, and nothing is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from datasets.errors import CheckpointError
from models.checkpoint import main
from models.checkpoints.folder import build_without_storage, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.preprocessing import read_preprocessing
from models.checkpoints.released import from_released, load_released_vision, save_released
from models.configuration import VISION_PRESETS
from models.encoders.positions import sinusoidal_positions
from models.vision import VisionModel
from tests.parity import VECTORS
from tests.tiny_model import collate, make_sample, tiny_ctinstruct, tiny_tokenizer

CONFIG_4_48 = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 384,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"mrope_section": [4, 6, 6], "type": "mrope"},
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.48.0",
    "use_sliding_window": False,
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "model_type": "qwen2_vl"},
}


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


@pytest.fixture
def released(tmp_path, model) -> Path:
    """Written here by hand, key by key, in two shards with an index; not through save_released."""
    tensors = {}
    for name, tensor in model.vision.state_dict().items():
        tensors[f"visual.{name}"] = tensor.clone()
    for name, tensor in model.language_model.model.state_dict().items():
        tensors[f"model.{name}"] = tensor.clone()
    tensors["lm_head.weight"] = model.language_model.lm_head.weight.detach().clone()
    for prefix, label_set in (("rad_class_heads", "RadChestCT"), ("ctrate_class_heads", "CT-RATE")):
        head = model.diagnosis_heads.heads[label_set]
        for i in range(head.out_features):
            tensors[f"{prefix}.{i}.weight"] = head.weight.detach()[i : i + 1].clone()
            tensors[f"{prefix}.{i}.bias"] = head.bias.detach()[i : i + 1].clone()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    weight_map = {}
    for file, chosen in files.items():
        save_file({name: tensors[name] for name in chosen}, tmp_path / file)
        weight_map |= dict.fromkeys(chosen, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {**CONFIG_4_48, "vocab_size": len(model.tokenizer), "ctinstruct_vision": model.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def assert_equal_models(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_released_folder_loads_with_every_tensor(released, model):
    loaded = load_checkpoint(released)
    assert_equal_models(loaded, model)
    batch = collate(
        [make_sample("segmentation", model.tokenizer), make_sample("diagnosis", model.tokenizer)], model.tokenizer
    )
    assert loaded(batch).loss.item() == pytest.approx(model(batch).loss.item(), rel=1e-5)


def test_a_released_folder_of_tied_embeddings_needs_one_of_them(tmp_path):
    """The 2B model's head is its embedding: the file has the embedding alone."""
    tied = tiny_ctinstruct(seed=3)
    tied.language_model.config.tie_word_embeddings = True
    tied.language_model.tie_weights()
    assert tied.language_model.lm_head.weight is tied.language_model.model.embed_tokens.weight
    save_released(tied.eval(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "model.embed_tokens.weight" in stored and "lm_head.weight" not in stored
    loaded = load_checkpoint(tmp_path)
    assert loaded.language_model.lm_head.weight is loaded.language_model.model.embed_tokens.weight
    assert_equal_models(loaded, tied)


def edit_shard(folder, change):
    file = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop(next(k for k in t if k.startswith("visual."))), "1 keys are missing, the first is vision."),
        (lambda t: t.pop(next(k for k in t if k.startswith("model."))), "the first is language_model.model."),
        (lambda t: t.pop(next(k for k in t if "class_heads" in k)), "the first is diagnosis_heads.heads."),
        (lambda t: t.update({"visual.extra": torch.zeros(1)}), "unexpected key visual.extra"),
        (lambda t: t.update({"rad_class_heads.0.gain": torch.zeros(1)}), "unexpected key rad_class_heads.0.gain"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(3, 3)}), "lm_head.weight has shape"),
    ],
)
def test_nothing_of_a_released_folder_is_passed_over(released, change, complaint):
    edit_shard(released, change)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(released)


def test_every_published_name_has_its_place_at_full_size(model):
    """All names and shapes of the release against the full model, without storage."""
    visual = json.loads((VECTORS / "reference_state_dict_shapes.json").read_text())
    language = json.loads((VECTORS / "llm_tiny_state_dict_shapes.json").read_text())
    config = model.language_model.config.__class__(**{**model.language_model.config.to_dict(), "hidden_size": 3584})
    full = build_without_storage(VISION_PRESETS["full"], config, model.tokenizer).state_dict()
    hit = set()
    for key, shape in {f"visual.{k}": v for k, v in visual.items()}.items():
        target = from_released(key)
        assert list(full[target.name].shape) == shape, key
        hit.add(target.name)
    hit |= {from_released(key).name for key in language}
    assert hit == set(full)


def test_conversion_both_ways_by_command(tmp_path, model, capsys, monkeypatch):
    record = model.vision.preprocessing.with_orientation("LPS")
    monkeypatch.setattr(model.vision, "preprocessing", record)
    save_checkpoint(model, tmp_path / "ours")

    def convert(source, target, to):
        return main(["convert", str(tmp_path / source), str(tmp_path / target), "--to", to])

    assert convert("ours", "released", "released") == 0
    keys = load_file(tmp_path / "released" / "model.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {
        "visual",
        "model",
        "lm_head",
        "rad_class_heads",
        "ctrate_class_heads",
    }
    assert convert("released", "again", "ctinstruct") == 0
    assert_equal_models(load_checkpoint(tmp_path / "again"), model)
    assert read_preprocessing(tmp_path / "released") == read_preprocessing(tmp_path / "again") == record
    assert convert("ours", "ours", "released") == 2
    assert "is the source too" in capsys.readouterr().err
    assert convert("absent", "x", "released") == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error:") and complaint.count("\n") == 1


def test_a_language_model_that_the_release_cannot_hold_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.checkpoints.folder import build_ctinstruct

    tokenizer = tiny_tokenizer()
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    )
    other = build_ctinstruct(VISION_PRESETS["tiny"], llama, tokenizer)
    with pytest.raises(CheckpointError, match="Qwen2-VL language models only, this one is llama"):
        save_released(other, tmp_path)


def vision_file(vision: VisionModel) -> dict[str, torch.Tensor]:
    tensors = {
        "module.pos_embedding": sinusoidal_positions(vision.config.inplane_grid, vision.config.query_width)[None]
    }
    for name, tensor in vision.state_dict().items():
        if name.startswith("encoder."):
            tensors["module.visual_encoder." + name.removeprefix("encoder.")] = tensor
        elif not name.startswith(("bridger.", "qwen2biolord.")):
            tensors["module." + name] = tensor
    return tensors


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_released_vision_file_loads_but_for_the_projector(tmp_path, wrapped):
    torch.manual_seed(1)
    trained, vision = VisionModel(VISION_PRESETS["tiny"]), VisionModel(VISION_PRESETS["tiny"])
    kept = {name: tensor.clone() for name, tensor in vision.state_dict().items()}
    tensors = vision_file(trained)
    torch.save({"state_dict": tensors} if wrapped else tensors, tmp_path / "vision.pt")
    load_released_vision(vision, tmp_path / "vision.pt")
    for name, tensor in vision.state_dict().items():
        own = name.startswith(("bridger.", "qwen2biolord."))
        assert torch.equal(tensor, kept[name] if own else trained.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("module.projection_layer.0.bias"), "the first is projection_layer.0.bias"),
        (lambda t: t.update({"module.text.weight": torch.zeros(1)}), "unexpected key module.text.weight"),
        (lambda t: t.update({"module.pos_embedding": torch.zeros(1, 4, 128)}), "is not the 2D sinusoid"),
        (lambda t: t.update({"module.extra": "a string"}), "holds no table of tensors"),
    ],
)
def test_a_wrong_vision_file_is_refused(tmp_path, change, complaint):
    tensors = vision_file(VisionModel(VISION_PRESETS["tiny"]))
    change(tensors)
    torch.save(tensors, tmp_path / "vision.pt")
    with pytest.raises(CheckpointError, match=complaint):
        load_released_vision(VisionModel(VISION_PRESETS["tiny"]), tmp_path / "vision.pt")


def test_a_saved_release_keeps_how_it_searches(tmp_path):
    model = tiny_ctinstruct(seed=3).eval()
    model.language_model.generation_config.do_sample = True
    model.language_model.generation_config.top_k = 7
    save_released(model, tmp_path)
    found = load_checkpoint(tmp_path).language_model.generation_config
    assert found.do_sample is True and found.top_k == 7
