"""The plan from downloads to tables: one for both scales, taken up where it stopped; and, slow, as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.reproduction.__main__ import main
from benchmarks.reproduction.needs import ENCODE_GFLOP, MASK_GFLOP, needs, stated_terabytes
from benchmarks.reproduction.plan import Command, Places, Step, plan
from benchmarks.reproduction.running import run_plan
from datasets.catalog import published_tasks
from datasets.errors import InputError
from datasets.prepare.data_set import DataSet
from datasets.prepare.registry import data_sets
from evaluation.answering.benchmarks import benchmark_names

ROOT = Path(__file__).resolve().parents[1]
PLACES = Places(Path("/data"), Path("out"))


def test_both_scales_take_the_same_steps_with_the_same_programs() -> None:
    def programs(steps: list[Step]) -> list[tuple[str, list[str]]]:
        return [(step.name, [command.name for command in step.commands]) for step in steps]

    full, rehearsal = plan("full", PLACES), plan("rehearsal", PLACES)
    assert programs(full) == programs(rehearsal)
    assert [step.title for step in full] == [step.title for step in rehearsal]
    for left, right in zip(full[1:], rehearsal[1:], strict=True):
        for one, other in zip(left.commands, right.commands, strict=True):
            assert [word for word in one.words if word.endswith(".py")] == [w for w in other.words if w.endswith(".py")]
    assert set(needs(data_sets())) == {step.name for step in full}


def test_programs_and_modules_of_the_plan_exist() -> None:
    for scale in ("full", "rehearsal"):
        for step in plan(scale, PLACES):
            for command in step.commands:
                program = command.words[1] if command.words[1] != "-m" else command.words[2]
                path = ROOT / program if program.endswith(".py") else ROOT / program.replace(".", "/")
                assert path.is_file() or path.is_dir() or path.with_suffix(".py").is_file(), command.words


def test_figures_of_the_needs_are_those_of_the_page_on_scaling() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert f"{ENCODE_GFLOP:.0f} GFLOP to encode, {MASK_GFLOP:.0f} GFLOP for its first mask" in page
    stated = {
        name: float(days)
        for name, days in re.findall(r"^\| (pretraining|instruction tuning with \S+),.*?M \| ([\d.]+) \|", page, re.M)
    }
    needed = needs({})
    hours = float(re.findall(r"(\d+) hours", needed["pretrain"])[0])
    assert hours / 24 == pytest.approx(stated["pretraining"], abs=0.06)
    hours = float(re.findall(r"(\d+) hours", needed["tune"])[0])
    assert hours / 24 == pytest.approx(stated["instruction tuning with Qwen2-VL-7B"], abs=0.06)


def test_stated_sizes_are_summed() -> None:
    sets = [DataSet(name, name, read=lambda *_: [], marks=("*",), size=size) for name, size in
            (("a", "10 CTs, 1,500 GB"), ("b", "12 TB in both versions"), ("c", "50 CTs"))]  # fmt: skip
    terabytes, stating = stated_terabytes(sets)
    assert terabytes == pytest.approx(13.5) and stating == 2


def test_the_full_size_is_printed_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "downloads"
    (root / "CT-ORG" / "OrganSegmentations").mkdir(parents=True)
    for name in ("volume-0.nii.gz", "labels-0.nii.gz"):
        (root / "CT-ORG" / "OrganSegmentations" / name).touch()
    assert main(["--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert f"under {root}: ct_org\n" in printed and "benchmark: 1 of 8 tasks" in printed
    for step in plan("full", Places(root, Path("runs/reproduction"))):
        assert step.title in printed
        for command in step.commands:
            assert " ".join(command.words) in printed
    assert os.listdir(tmp_path) == ["downloads"]
    assert main(["--root", str(tmp_path / "none")]) == 0
    assert "no such folder; see --root" in capsys.readouterr().out
    assert main(["--scale", "rehearsal", "--root", str(root)]) == 1


def counting(name: str, file: Path, *more: str) -> Command:
    """A command that adds a line to a file."""
    return Command(name, ("python", "-c", f"open({str(file)!r}, 'a').write('{name}\\n')", *more))


def test_a_plan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    first, last = counting("first", seen), counting("last", seen)
    broken = Command("second", ("python", "-c", "print('what went wrong'); raise SystemExit(3)"))
    with pytest.raises(InputError, match=r"second: exit status 3; .*second\.log"):
        run_plan([Step("s", "S", (first, broken, last))], tmp_path / "out")
    assert seen.read_text() == "first\n"
    steps = [Step("s", "S", (first, counting("second", seen), last))]
    run_plan(steps, tmp_path / "out")
    assert seen.read_text() == "first\nsecond\nlast\n", "the first is done, the others are not"
    run_plan(steps, tmp_path / "out")
    assert seen.read_text() == "first\nsecond\nlast\n", "all are done"
    run_plan([Step("s", "S", (first, counting("second", seen, "other"), last))], tmp_path / "out")
    assert seen.read_text().splitlines()[3:] == ["second", "last"], "what follows a changed command is run again"


def test_what_an_interrupted_command_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    command = replace(counting("first", tmp_path / "seen"), clears=tmp_path / "made")
    run_plan([Step("s", "S", (command,))], tmp_path / "out")
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rehearsal_leads_from_replicas_to_the_report(tmp_path: Path) -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.reproduction", "--scale", "rehearsal", "--out", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    pretraining = tmp_path / "prepared" / "pretraining"
    missing = [task.name for task in published_tasks(pretraining) if not task.path().is_file()]
    assert not missing
    for encoder in ("2D1D", "ViT3D", "ResNet3D"):
        scores = json.loads((tmp_path / "encoders" / encoder / "validation.json").read_text())
        assert scores["encoder"] == encoder
        history = (tmp_path / "encoders" / encoder / "history.jsonl").read_text()
        assert not [task.name for task in published_tasks() if f'"{task.name}/loss"' not in history]
    assert len((tmp_path / "ablation" / "ablation.md").read_text(encoding="utf-8").splitlines()) > 6
    summaries = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert list(summaries) == benchmark_names()
    assert all(summary["counts"]["failed"] == 0 for summary in summaries.values())
    tables = (tmp_path / "evaluation" / "tables" / "tables.md").read_text(encoding="utf-8")
    assert "(release protocol)" in tables and "RadFinder" in tables and "published |" not in tables
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in benchmark_names()) and "MedM-VL-CT-3B" in page
    again = subprocess.run(
        [sys.executable, "-m", "benchmarks.reproduction", "--scale", "rehearsal", "--out", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    commands = sum(len(step.commands) for step in plan("rehearsal", PLACES))
    assert again.returncode == 0 and again.stdout.count("done already") == commands
