"""A full or failing disk is told in one line with status 2, wherever a run writes."""

from __future__ import annotations

import errno
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.errors import CheckpointError, InputError, WriteError
from datasets.export.masks import write_formats
from datasets.volume.loading import read_volume
from evaluation.answering.inference import stop_if_machine_fails
from models.checkpoints.whole_folder import whole_folder
from tests.campaign.memory import in_a_child
from tests.ct_files import write_nifti
from tests.tiny_model import tiny_ctinstruct
from training import distributed
from training.checkpoint_store import latest_complete, write_checkpoint
from training.distributed import Ranks
from training.script import _run, _thread_failed


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("named", [True, False])
def test_one_line(number: int, named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(number, "it says why", *(["/runs/a\nb"] if named else []))

    assert _run(main) == 2
    place = "/runs/a\\nb" if named else "a file of this run"
    assert capsys.readouterr().err == f"error: {place}: it says why; mend that and start again\n"


def test_a_threads_full_disk_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    class EventWriter(threading.Thread):
        """As TensorBoard's, whose error comes to the main thread too."""

        __module__ = "tensorboard.summary.writer"

    def said(error: Exception, thread: threading.Thread) -> str:
        _thread_failed(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))
        return capsys.readouterr().err

    full = OSError(errno.ENOSPC, "No space left on device", "/runs/a")
    keeper = threading.Thread(name="keeper")
    line = "warning: keeper has stopped: /runs/a: No space left on device; mend that and start again\n"
    assert said(full, keeper) == line
    assert said(full, EventWriter()) == ""
    assert "ValueError: a fault of ours" in said(ValueError("a fault of ours"), keeper)


def test_a_checkpoint_without_room_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(step: int) -> Path:
        given: dict[str, Any] = {
            "save_model": lambda folder: (folder / "a").write_text("a"),
            "description": {},
            "keep": 1,
        }
        return write_checkpoint(tmp_path, step, Ranks(0, 1, 0, torch.device("cpu")), rank_state={"step": step}, **given)

    first = save(1)

    def full(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nframe #0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="file write failed"):
        save(2)
    assert latest_complete(tmp_path) == first

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match=r"^CUDA error"):  # room on the disk would not help
        save(2)


def test_a_tokenizer_without_room_is_told_as_such(tmp_path: Path) -> None:
    """The tokenizers library raises a bare Exception, whose text alone says that the disk is meant."""
    tokenizer = tiny_ctinstruct().tokenizer

    def save() -> float:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with whole_folder(tmp_path / "model") as part:
            tokenizer.backend_tokenizer.save(str(part / "tokenizer.json"))
        return 0.0

    said = in_a_child(save)
    assert isinstance(said, str)
    assert said.startswith(f"CheckpointError: {tmp_path}/model: cannot be written (File too large"), said
    assert list((tmp_path / "model").iterdir()) == []
    with pytest.raises(Exception, match=r"^a fault of ours$"), whole_folder(tmp_path / "other"):
        raise Exception("a fault of ours")


def test_a_map_of_labels_without_room_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written as a format is left out with a warning; a full disk is no property of a format."""
    path = write_nifti(tmp_path / "ct.nii.gz", np.random.default_rng(0).normal(0, 300, (12, 11, 6)), np.eye(4))
    geometry = read_volume(path)[1]
    write = Path.write_bytes

    def full(file: Path, content: bytes) -> int:
        if ".json" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return write(file, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"\.json.*: cannot be written \(No space left on device\)") as caught:
        write_formats({"liver": np.ones(geometry.shape, np.uint8)}, geometry, tmp_path / "out", ["labels"])
    with pytest.raises(WriteError):
        stop_if_machine_fails(caught.value)
    stop_if_machine_fails(InputError("a.nii.gz: damaged"))  # of one sample: the others go on


def test_one_ranks_full_disk_is_that_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: sent.append(value) or [None, value])
    with pytest.raises(WriteError, match=r"^/runs/a: no room$"):
        distributed.raise_together(WriteError("/runs/a: no room"))
    monkeypatch.setattr(distributed, "all_gather_object", lambda _: [None, *sent])
    with pytest.raises(WriteError, match=r"^/runs/a: no room$") as caught:  # on the rank that could write
        distributed.raise_together(None)
    assert distributed.is_shared(caught.value) and not isinstance(caught.value, InputError)
