"""What the options name on the hub: a text encoder, a language model, a vision file, a whole release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from datasets.manifest import load_manifest
from models.checkpoints.loading import load_base, load_checkpoint
from models.hub.download import find_model
from models.hub.selection import VISION, HubError
from models.language.loading import load_language_model
from models.language.lora import LoraSettings
from models.text.text_encoder import TextEncoder
from models.text.tiny_text_encoder import build_tiny_text_encoder
from tests.hub_server import WEIGHTS
from tests.tiny_model import assert_equal_models, tiny_ctinstruct
from train_CTInstruct import HyperParameters
from training import distributed
from training.tuning.model import build_model

ROOT = Path(__file__).resolve().parents[1]
TUNING_PARTS = ("bridger.", "qwen2biolord.")  # of the vision model, trained only with the language model


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint folder with the record of its training."""
    from models.checkpoints.folder import save_checkpoint

    return save_checkpoint(model, tmp_path_factory.mktemp("model"))


def test_a_text_encoder_by_name(hub, tmp_path):
    hub.add("owner/text", build_tiny_text_encoder(["liver", "spleen"], width=64).save(tmp_path / "text"), branch="v1")
    encoder = TextEncoder.load("owner/text@v1")
    assert torch.equal(encoder.encode(["liver"]), TextEncoder.load(tmp_path / "text").encode(["liver"]))
    with pytest.raises(InputError, match=r"text encoder 'owner/text' could not be loaded.*there is no revision main"):
        TextEncoder.load("owner/text")


def test_a_language_model_by_name(hub, model, tmp_path):
    language_model, name = model.language_model, "owner/llm@main"
    language_model.save_pretrained(tmp_path / "llm")
    model.tokenizer.save_pretrained(tmp_path / "llm")
    hub.add("owner/llm", tmp_path / "llm")
    loaded, _ = load_language_model(name)
    assert_equal_models(loaded, load_language_model(str(tmp_path / "llm"))[0])
    again, _ = load_base(LoraSettings(name))  # an adapter's base, named with its revision
    assert_equal_models(again, loaded)


def test_a_vision_file_by_name(hub):
    hub.add("owner/vision", {"README.md": b"", "epoch_9.pt": WEIGHTS})
    path = find_model("owner/vision", VISION)
    assert path.name == "epoch_9.pt" and path.read_bytes() == WEIGHTS
    hub.add("owner/several", {"a.pt": b"a", "b.pt": b"b"})
    with pytest.raises(HubError, match=r"holds 2 files of weights; name one, for example owner/several@main/a\.pt"):
        find_model("owner/several", VISION)
    assert find_model("owner/several@main/b.pt", VISION).read_bytes() == b"b"


def test_tuning_starts_from_a_vision_file_of_the_hub(hub, model, tmp_path):
    settings = HyperParameters(
        vision="tiny", language_model="tiny", pretrained_vision="owner/vision@main", run_dir=str(tmp_path / "run")
    )
    tensors = {f"module.{name}": tensor for name, tensor in vision_file_parts(model.vision).items()}
    torch.save(tensors, tmp_path / "vision.pt")
    hub.add("owner/vision", {"vision.pt": (tmp_path / "vision.pt").read_bytes()})
    settings.crop_size, settings.patch_max = model.config.crop_size, model.config.patch_max
    records = load_manifest(ROOT / "data" / "instruction_sft" / "VQA_CTRATE_example.json")
    started = build_model(settings, records, distributed.initialize())
    assert torch.equal(started.vision.projection_layer[0].weight, model.vision.projection_layer[0].weight)
    settings.projector_start = "texts"
    with pytest.raises(InputError, match="a released file knows no texts"):
        build_model(settings, records, distributed.initialize())


def vision_file_parts(vision):
    """Names as a released vision file has them, behind `module.`."""
    parts = {name: tensor for name, tensor in vision.state_dict().items() if not name.startswith(TUNING_PARTS)}
    return {f"visual_{name}" if name.startswith("encoder.") else name: tensor for name, tensor in parts.items()}


def test_a_release_in_pytorchs_format(hub, folder, model):
    """Shards in .bin files with an index, as transformers wrote them once."""
    tensors = load_file(folder / "model.safetensors")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
    names, weight_map = sorted(tensors), {}
    for number, chosen in enumerate((names[::2], names[1::2]), start=1):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        path = folder.parent / shard
        torch.save({name: tensors[name] for name in chosen}, path, _use_new_zipfile_serialization=number == 1)
        files[shard] = path.read_bytes()
        weight_map |= dict.fromkeys(chosen, shard)
    files["pytorch_model.bin.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    files["training_args.bin"] = b"not a weight"
    hub.add("owner/pickled", files)
    assert_equal_models(load_checkpoint("owner/pickled"), model)
    assert not hub.asked("training_args.bin")
