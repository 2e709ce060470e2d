"""The rehearsal of the release in its tiny size, and the names, shapes and special tokens of the full one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from benchmarks import released_rehearsal
from benchmarks.released_rehearsal import written_release
from benchmarks.synthetic_release import SCALES, release_shapes, weight_bytes, write_release
from benchmarks.synthetic_tokenizer import QWEN_VOCABULARY, synthetic_tokenizer
from datasets.vocabulary import IMAGE, IMAGE_START, NEW_TOKENS
from models.checkpoints.folder import build_without_storage
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.released import from_released
from models.configuration import VISION_PRESETS

REPOSITORY = Path(__file__).resolve().parents[1]


def test_names_and_shapes_of_the_full_size_are_those_of_the_full_model():
    """Two sources: the lists that the release is written by, and the classes that will read it."""
    config = Qwen2VLConfig(**SCALES["full"].language).get_text_config()
    model = build_without_storage(VISION_PRESETS["full"], config, synthetic_tokenizer(600))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = release_shapes(SCALES["full"])
    for key, shape in shapes.items():
        target = from_released(key)
        assert shape == (expected[target.name] if target.row is None else (1, *expected[target.name][1:])), key
    assert {from_released(key).name for key in shapes} == set(expected)
    assert 16.5e9 < weight_bytes(shapes) < 17.5e9


def test_the_tokenizer_of_the_full_size_has_qwens_ids_and_finds_its_words(tmp_path):
    tokenizer = synthetic_tokenizer(QWEN_VOCABULARY)
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", IMAGE_START, IMAGE, *NEW_TOKENS])
    assert ids == [151643, 151645, 151652, 151655, *range(151657, 151664)]
    assert len(tokenizer) <= SCALES["full"].language["vocab_size"]
    text = "Where is the liver? <SEG>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(SCALES["tiny"], folder)
    return folder


def test_a_tiny_release_is_in_shards_with_an_index_and_loads_to_the_bit(folder):
    files = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 3 and index["weight_map"].keys() == release_shapes(SCALES["tiny"]).keys()
    loaded = load_checkpoint(folder).state_dict()
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118 (not a mapping)
                target, stored = from_released(key), shard.get_tensor(key)
                found = loaded[target.name] if target.row is None else loaded[target.name][target.row][None]
                assert found.dtype == stored.dtype and found.flatten().equal(stored.flatten()), key


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_each_part_has_its_row(folder, quantize):
    image = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"
    rows = released_rehearsal.rehearse(folder, image, "bf16", quantize, weight_bytes(release_shapes(SCALES["tiny"])))
    text = released_rehearsal.table(rows)
    parts = ["load the model", "read the CT", "encode it", "read the question, 1 token", "the same, 16 tokens"]
    assert [row["part"] for row in rows] == [*parts, "decode a mask"]
    assert all(row["seconds"] > 0 and row["peak"][0] > row["peak"][1] > 0 for row in rows)
    assert re.search(r"\d MB/s of 0\.0\d GB", text) and " 16 tokens, " in text and "voxels" in text


def test_too_small_a_disk_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released_rehearsal.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    assert released_rehearsal.main(["--folder", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert re.fullmatch(r"error: --folder .*: 1\d\.\d GB are needed, 1\.0 are free; name another one\n", complaint)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_deleted_after_an_error_and_kept_on_demand(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError), written_release("tiny", tmp_path, keep=False) as (folder, _):
        assert len(list(folder.glob("*.safetensors"))) > 3
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with written_release("tiny", tmp_path, keep=True) as (folder, _):
        pass
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_command_deletes_its_folder_when_it_is_stopped(tmp_path, ending):
    command = [sys.executable, "-m", "benchmarks.released_rehearsal", "--scale", "tiny", "--folder", str(tmp_path)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background a child would ignore Ctrl-C
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = ""
    while "read the files plainly" not in line:  # the model is being loaded
        line = process.stdout.readline()
        assert line, process.stderr.read()
    assert list(tmp_path.iterdir())
    time.sleep(1)
    process.send_signal(ending)
    process.communicate(timeout=120)
    assert process.returncode and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_command_in_the_tiny_size(tmp_path):
    command = [sys.executable, "-m", "benchmarks.released_rehearsal", "--scale", "tiny", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| decode a mask |" in done.stdout and not list(tmp_path.iterdir())
