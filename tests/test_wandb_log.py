"""--wandb offline: the scalars that TensorBoard gets, in an offline run; a stub stands for the package, which is none
of the requirements."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.errors import InputError
from tests import toy_task
from training.settings import TrainingSettings
from training.wandb_log import require_wandb

STUB = """
import json, pathlib

class Settings(dict):
    def __init__(self, **given):
        super().__init__(given)

class Run:
    def __init__(self, given):
        self.file = open(pathlib.Path(given["dir"]) / "stub.jsonl", "a")
        self.file.write(json.dumps(given) + "\\n")
    def log(self, scalars, step):
        self.file.write(json.dumps({"step": step, **scalars}) + "\\n")
    def finish(self):
        self.file.write('"finished"\\n')
        self.file.close()

def init(**given):
    return Run(given)
"""


@pytest.fixture
def _no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the package is not installed, and an earlier run has left a folder of its name."""
    (tmp_path / "path" / "wandb").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path")])
    yield


def test_without_the_package_it_is_refused_before_anything_begins(_no_wandb: None) -> None:
    require_wandb("off")
    with pytest.raises(InputError, match=r"--wandb offline: the package wandb is not installed; pip install wandb"):
        TrainingSettings(wandb="offline").validate()


@pytest.mark.usefixtures("clean_environment")
def test_the_scalars_of_the_history_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    run_dir = tmp_path / "a run"
    toy_task.main(["--run_dir", str(run_dir), "--wandb", "offline", "--eval_interval", "6"])
    given, *logged, end = map(json.loads, (run_dir / "stub.jsonl").read_text().splitlines())
    assert (given["mode"], given["dir"], given["group"]) == ("offline", str(run_dir), "a run")
    assert given["config"]["max_iters"] == 12 and given["save_code"] is False
    history = list(map(json.loads, (run_dir / "history.jsonl").read_text().splitlines()))
    assert logged == history and [row["step"] for row in logged] == [4, 6, 8, 12, 12]
    assert end == "finished"
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
