"""Checkpoints on disk: complete or absent, and no older one harmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datasets.errors import CheckpointError
from training import checkpoint_store as store
from training.distributed import Ranks

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def write(run_dir: Path, step: int, keep: int = 3, save_model=None) -> Path:
    def save(folder: Path) -> None:
        (folder / "weights").mkdir()
        (folder / "weights" / "part.bin").write_bytes(bytes(range(step % 256)) * 10)

    return store.write_checkpoint(
        run_dir,
        step,
        ALONE,
        save_model=save_model or save,
        rank_state={"step": step, "tensor": torch.arange(3.0), "pairs": [(1, None), (2, 0.5)]},
        description={"answer": 42},
        keep=keep,
    )


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_round_trip(tmp_path):
    folder = write(tmp_path, 100)
    assert folder == tmp_path / "checkpoints" / "step_000100"
    assert store.latest_complete(tmp_path) == folder and store.step_of(folder) == 100
    assert store.find_problem(folder) is None
    state = store.load_rank_state(folder, 0)
    assert state["step"] == 100 and state["pairs"] == [(1, None), (2, 0.5)]
    assert torch.equal(state["tensor"], torch.arange(3.0))
    assert store.read_description(folder) == {"answer": 42}
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 1_000_000, 15):
        write(tmp_path, step, keep=2)
        if step == 1_000_000:
            assert names(tmp_path) == ["step_000010", "step_1000000"]
    # step 15 after step 1,000,000: the run was resumed from step 10, what lay beyond is no longer its history
    assert names(tmp_path) == ["step_000010", "step_000015"]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {'), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda folder: (folder / "training" / "rank_000.pt").unlink(), "training/rank_000.pt is missing"),
        (lambda folder: (folder / "model/weights/part.bin").write_bytes(b"short"), "has 5 bytes in place of 2000"),
        (lambda folder: (folder / "model/weights/part.bin").write_bytes(bytes(2000)), "part.bin has changed"),
    ],
)
def test_a_broken_checkpoint_is_passed_over(tmp_path, harm, problem, capsys):
    good = write(tmp_path, 100)
    harm(write(tmp_path, 200))
    assert store.latest_complete(tmp_path) == good
    assert problem in capsys.readouterr().err
    assert store.find_checkpoint(tmp_path, "auto") == good
    with pytest.raises(CheckpointError, match="step_000200"):
        store.find_checkpoint(tmp_path, str(tmp_path / "checkpoints" / "step_000200"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"[" * 200_000, b'{"files": [1]}', b'{"files": {}}', b'{"files": {"a": 3}}',
        b'{"files": {"a": {}}}', b'{"files": {"\\ud800": {"size": 1, "sha256": ""}}}',
        b'{"files": {"%s": {"size": 1, "sha256": ""}}}' % (b"a" * 300),
    ],
    ids=lambda content: repr(content[:30]),
)  # fmt: skip
def test_a_damaged_manifest_is_passed_over_and_told_once(content, tmp_path, capsys):
    good, broken = write(tmp_path, 100), write(tmp_path, 200)
    (broken / "manifest.json").write_bytes(content)
    assert [store.latest_complete(tmp_path), store.latest_complete(tmp_path)] == [good, good]
    assert capsys.readouterr().err == f"passing over checkpoint {broken}: manifest.json is damaged\n"


def test_a_flipped_bit_in_a_large_file_is_noticed(tmp_path, capsys):
    good = write(tmp_path, 100)
    broken = write(tmp_path, 200, save_model=lambda folder: (folder / "large.bin").write_bytes(bytes(24 * 2**20)))
    with open(broken / "model" / "large.bin", "r+b") as stream:
        stream.seek(20 * 2**20)
        stream.write(b"\x01")
    assert store.latest_complete(tmp_path) == good
    assert "large.bin has changed since it was written" in capsys.readouterr().err


def test_a_failed_save_leaves_the_older_ones(tmp_path):
    good = write(tmp_path, 100, keep=1)

    def fail(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 200, keep=1, save_model=fail)
    assert store.latest_complete(tmp_path) == good
    assert names(tmp_path) == [".partial_step_000200", "step_000100"]
    write(tmp_path, 300, keep=1)
    assert names(tmp_path) == ["step_000300"]


def test_what_resume_means(tmp_path):
    assert store.find_checkpoint(tmp_path, "") is None
    assert store.find_checkpoint(tmp_path, "auto") is None  # a run that has yet to begin
    with pytest.raises(CheckpointError, match="--resume"):
        store.find_checkpoint(tmp_path, str(tmp_path / "absent"))
    first, second = write(tmp_path, 1), write(tmp_path, 2)
    assert store.find_checkpoint(tmp_path, "") is None
    assert store.find_checkpoint(tmp_path / "other", str(first)) == first
    assert store.find_checkpoint(tmp_path / "other", str(tmp_path)) == second


def test_model_folder_of_a_run_a_checkpoint_or_itself(tmp_path):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    assert store.resolve_model_folder(tmp_path) == newest / "model"
    assert store.resolve_model_folder(newest) == newest / "model"
    assert store.resolve_model_folder(newest / "model") == newest / "model"
    with pytest.raises(CheckpointError, match="no such folder"):
        store.resolve_model_folder(tmp_path / "absent")
    (newest / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="not written to its end"):
        store.resolve_model_folder(newest)


def test_nothing_but_plain_data_is_unpickled(tmp_path):
    folder = write(tmp_path, 1)
    torch.save({"path": Path("x")}, folder / "training" / "rank_000.pt")
    with pytest.raises(Exception, match="weights_only"):
        store.load_rank_state(folder, 0)
