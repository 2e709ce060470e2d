"""`python -m datasets.prepare` on a full disk: one line with status 2, and no further data set is begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.prepare import command, registry
from tests.full_disk import largest_file
from tests.toy_data_set import toy_set, write_toy

TASKS = ("CTRATE_image_text", "RadGenome_disease_classification")


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two data sets, each of one pretraining task."""
    known = {
        name: toy_set(name, marks=(f"{name}.txt",), pretraining=(task,), instruction=(), benchmarks=())
        for name, task in zip(("one", "two"), TASKS, strict=True)
    }
    for module in (command, registry):
        monkeypatch.setattr(module, "data_sets", lambda: known)
    for name in known:
        (write_toy(tmp_path / "root" / name, ["train", "val", "test"]) / f"{name}.txt").touch()
    return tmp_path / "root"


def one(root: Path, out: Path) -> list[str]:
    return ["one", "--source", str(root / "one"), "--out", str(out)]


def every(root: Path, out: Path) -> list[str]:
    return ["all", "--root", str(root), "--out", str(out)]


@pytest.mark.parametrize("arguments", [one, every])
def test_it_is_told_in_one_line_with_status_2(
    arguments: Callable[[Path, Path], list[str]],
    downloads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []
    prepare = command.preparing.prepare

    def counted(*given, **named):
        begun.append(given[0].name)
        return prepare(*given, **named)

    monkeypatch.setattr(command.preparing, "prepare", counted)
    given = [*arguments(downloads, tmp_path / "out"), "--workers", "1"]
    with largest_file(100):
        assert command.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/out/") and line.endswith("cannot be written (File too large)")
    assert begun == ["one"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert command.main(given) == 0
    assert (tmp_path / "out" / "pretraining" / f"{TASKS[0]}_train.json").is_file()
