"""Models by hub name: downloads that are broken off and go on, one line where none is to be had, upload with a card.

All of it against a hub on 127.0.0.1; nothing here reaches another machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import CheckpointError, InputError
from datasets.manifest import load_manifest
from models import CTInstruct
from models.checkpoints.loading import load_base, load_checkpoint
from models.checkpoints.model_card import model_card, read_metrics
from models.hub.download import find_model
from models.hub.names import hub_name
from models.hub.selection import VISION, HubError
from models.language.loading import load_language_model
from models.language.lora import LoraSettings
from models.text.text_encoder import TextEncoder
from models.text.tiny_text_encoder import build_tiny_text_encoder
from tests.hub_server import TOKEN, running_hub
from tests.tiny_model import tiny_ctinstruct
from train_CTInstruct import HyperParameters
from training import checkpoint_store, distributed
from training.tuning.model import build_model

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = bytes(range(256)) * 8192  # 2 MB
PIECE = 65_536  # bytes that are written at once; 10 MB outside of tests
FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}", "notes.md": b"not wanted", "model.safetensors": WEIGHTS}
TUNING_PARTS = ("bridger.", "qwen2biolord.")  # of the vision model, trained only with the language model
TRAINING = {
    "recipe": "phantom",
    "preset": "tiny",
    "data": "manifests a|b.json",
    "departures": {"betas": {"published": [0.9, 0.999], "this_run": [0.9, 0.95]}},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, with an empty cache and nobody logged in."""
    with running_hub() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)  # its own protocol, its own servers
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint folder with the record of its training."""
    from models.checkpoints.folder import save_checkpoint

    return save_checkpoint(model, tmp_path_factory.mktemp("model"), training=TRAINING)


def assert_equal_models(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name-1.0@v2", ("owner/name-1.0", "v2", None)),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1", None)),
        ("owner/name/q4.gguf", ("owner/name", None, "q4.gguf")),
        ("owner/name@main/vision/last.pt", ("owner/name", "main", "vision/last.pt")),
        ("runs/tuned@main", ("runs/tuned", "main", None)),  # said to be of the hub
        ("runs/tuned", None),  # the folder runs is there
        ("runs/foo/bar", None),
        ("a/b/c", None),
        ("owner/vision.pt", None),
        ("owner/name/vision.pt", None),
        ("/owner/name", None),
        ("./owner", None),
        ("word", None),
        ("", None),
    ],
)
def test_what_is_a_hub_name_and_what_a_path(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    name = hub_name(text)
    assert (name and (name.repository, name.revision, name.file)) == expected


def test_a_missing_path_is_not_looked_for_on_the_hub(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    for path in ("runs/foo", "runs/foo/bar", "nowhere"):
        with pytest.raises(HubError, match=f"{path}: no such file or folder"):
            find_model(path)
        with pytest.raises(CheckpointError, match=f"{path}: no such folder"):
            checkpoint_store.resolve_model_folder(path)
    assert hub.requests == []


# ---- downloads


def test_a_download_and_its_revisions(hub):
    hub.add("owner/name", FILES)
    commit = hub.add("owner/name", {**FILES, "config.json": b'{"a": 2}'}, branch="v2")
    folder = find_model("owner/name")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert checkpoint_store.resolve_model_folder("owner/name") == folder
    for revision in ("v2", commit):
        other = find_model(f"owner/name@{revision}")
        assert json.loads((other / "config.json").read_text()) == {"a": 2}
    assert len(hub.asked("model.safetensors")) == 1  # the weights are the same in both


def test_a_broken_connection_costs_less_than_a_piece(hub):
    hub.add("owner/name", FILES)
    hub.break_after["model.safetensors"] = [1_000_000]
    folder = find_model("owner/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    first, second = (request.range for request in hub.asked("model.safetensors"))
    assert first is None and second == f"bytes={1_000_000 // PIECE * PIECE}-"


def test_a_killed_download_goes_on_where_it_was(hub, tmp_path):
    """A process is ended by SIGKILL in the middle of a file; the next one asks for the rest of it alone."""
    hub.add("owner/name", FILES)
    hub.hold_after["model.safetensors"] = 1_500_000
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    program = (
        f"import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = {PIECE}\n"
        "from models.hub.download import find_model; find_model('owner/name')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=tmp_path)
    try:
        assert hub.holding.wait(60)
        blobs = tmp_path / "cache" / "hub" / "models--owner--name" / "blobs"
        deadline = time.monotonic() + 30
        while sum(path.stat().st_size for path in blobs.glob("*.incomplete")) < 1_300_000:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    hub.release.set()
    (part,) = blobs.glob("*.incomplete")
    kept = part.stat().st_size
    assert 0 < kept < len(WEIGHTS)
    hub.requests.clear()
    folder = find_model("owner/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.asked("model.safetensors")] == [f"bytes={kept}-"]
    assert not list(blobs.glob("*.incomplete"))


def test_processes_that_ask_at_once_download_once(hub):
    hub.add("owner/name", FILES)
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(find_model, ["owner/name"] * 3))
    assert len(set(folders)) == 1 and (folders[0] / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.asked("model.safetensors")) == 1


def test_a_damaged_file_is_not_kept(hub, tmp_path):
    hub.add("owner/name", FILES)
    hub.damage.add("model.safetensors")
    with pytest.raises(HubError, match=r"model\.safetensors was damaged on its way"):
        find_model("owner/name")
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.damage.clear()
    assert (find_model("owner/name") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_disk_that_is_too_small_is_said_before(hub, monkeypatch):
    hub.add("owner/name", FILES)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("models.hub.large_files.shutil.disk_usage", lambda path: usage)
    with pytest.raises(HubError, match="set HF_HOME"):
        find_model("owner/name")
    assert not hub.asked("model.safetensors")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("owner/absent", "owner/absent: neither a local path nor a model on http.*hf auth login"),
        ("owner/name@v9", "owner/name@v9: there is no revision v9"),
        ("owner/gated", "owner/gated: is gated; accept its terms at http.*hf auth login"),
        ("owner/private", "owner/private: neither a local path nor"),
        ("owner/name@main/q4.gguf", "owner/name@main/q4.gguf: there is no such file; the repository holds config.json"),
        ("owner/empty", "owner/empty: has no model.safetensors or pytorch_model.bin; it holds README.md"),
    ],
)
def test_what_cannot_be_had_gives_one_line(hub, name, complaint):
    hub.add("owner/name", FILES)
    hub.add("owner/gated", FILES, gated=True)
    hub.add("owner/private", FILES, private=True)
    hub.add("owner/empty", {"README.md": b""})
    with pytest.raises(InputError, match=complaint) as error:
        CTInstruct.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_a_private_model_with_a_token(hub, monkeypatch):
    hub.add("owner/private", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (find_model("owner/private") / "model.safetensors").read_bytes() == WEIGHTS


def test_without_a_network_the_cache_serves(hub, monkeypatch):
    hub.add("owner/name", FILES)
    folder = find_model("owner/name")
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_model("owner/name") == folder
    with pytest.raises(HubError, match=r"owner/other: http://127.0.0.1:9 cannot be reached .*give a local folder"):
        find_model("owner/other")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert find_model("owner/name") == folder
    with pytest.raises(HubError, match="owner/other: HF_HUB_OFFLINE is set"):
        find_model("owner/other")
    (folder / "model.safetensors").unlink()  # half a download is none
    with pytest.raises(HubError, match="owner/name: HF_HUB_OFFLINE is set"):
        find_model("owner/name")


def test_a_model_in_a_folder_of_its_repository(hub, monkeypatch):
    inside = {f"final/{path}": content for path, content in FILES.items()}
    hub.add("owner/nested", {**inside, "README.md": b"", "stage1/vision.pt": b"v"})
    folder = find_model("owner/nested")
    assert folder.name == "final" and (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert find_model("owner/nested", VISION).read_bytes() == b"v"
    hub.add("owner/two", {**inside, **{f"other/{path}": content for path, content in FILES.items()}})
    with pytest.raises(HubError, match="holds models in final, other; fetch one with `hf download owner/two"):
        find_model("owner/two")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert find_model("owner/nested") == folder


# ---- what the options name


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


# ---- CTInstruct.from_pretrained, save_pretrained, push_to_hub


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
