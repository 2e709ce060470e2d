"""Models by hub name: downloads that are broken off and go on, and one line where none is to be had."""

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

from datasets.errors import CheckpointError, InputError
from models import CTInstruct
from models.hub.download import find_model
from models.hub.names import hub_name
from models.hub.selection import VISION, HubError
from tests.hub_server import PIECE, TOKEN, WEIGHTS
from training import checkpoint_store

ROOT = Path(__file__).resolve().parents[1]
FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}", "notes.md": b"not wanted", "model.safetensors": WEIGHTS}


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
