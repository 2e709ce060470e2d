"""A full or failing disk is told in one line with status 2, wherever a run writes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.errors import CheckpointError
from training.checkpoint_store import latest_complete, write_checkpoint
from training.distributed import Ranks
from training.script import _run


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("named", [True, False])
def test_one_line(number: int, named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(number, "it says why", *(["/runs/a\nb"] if named else []))

    assert _run(main) == 2
    place = "/runs/a\\nb" if named else "a file of this run"
    assert capsys.readouterr().err == f"error: {place}: it says why; mend that and start again\n"


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
