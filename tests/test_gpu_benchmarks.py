"""The benchmark of a GPU: its arithmetic against closed forms, parts that hang or fail, and all of it, tiny."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu import learning
from benchmarks.gpu.__main__ import LIMIT, PARTS, Ended, exit_status, report, run_part
from benchmarks.gpu.answers import relative_error
from benchmarks.gpu.budget import Part, granted
from benchmarks.gpu.encoder import utilisation
from benchmarks.gpu.figures import Figure, FigureFile, line_of, of_row, read_figures, table
from benchmarks.machine import nominal_flops
from benchmarks.measure import Row
from benchmarks.memory_search import DoesNotFit, largest_within
from benchmarks.same_tokens import first_difference
from datasets.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("limit", [0.5, 3.6, 3.7, 9.0, 40.0, 79.3, 200.0])
@pytest.mark.parametrize("bend", [0.0, 0.004])
def test_the_largest_size_is_that_of_trying_all(limit, bend):
    tried = []

    def peak(size: int) -> float:
        tried.append(size)
        return 3 + 0.7 * size + bend * size**2

    (found,), peaks = largest_within(peak, [limit], 128)
    assert found.size == max((n for n in range(1, 129) if 3 + 0.7 * n + bend * n**2 <= limit), default=0)
    assert found.exact or found.size == 128
    assert len(tried) == len(set(tried)) <= 12, "a trial is a training step"
    assert sorted(tried) == list(peaks)


def test_several_limits_share_their_trials():
    tried = []

    def peak(size: int) -> float:
        tried.append(size)
        return 16.0 + size

    found, _ = largest_within(peak, [80, 24, 40], 96)
    assert [(one.limit, one.size, one.exact) for one in found] == [(24, 8, True), (40, 24, True), (80, 64, True)]
    assert len(tried) == len(set(tried)) <= 10


def test_what_does_not_fit_the_card_bounds_the_search():
    def peak(size: int) -> float:
        if size > 13:
            raise DoesNotFit("out of memory")
        return float(size)

    (found,), _ = largest_within(peak, [30.0], 64)
    assert (found.size, found.exact) == (13, True)


def test_a_search_that_is_stopped_says_so():
    trials = iter([True, True, True, False])
    (found, other), peaks = largest_within(float, [50.0, 60.0], 100, lambda: next(trials, False))
    assert found.size == other.size == max(peaks) and not found.exact and len(peaks) == 3


def test_granted_seconds_never_exceed_those_that_are_left():
    parts = [Part("a", "m", wish=100, least=40), Part("b", "m", wish=90, least=40), Part("c", "m", wish=225, least=60)]
    for limit in range(0, 600, 7):
        left = float(limit)
        for number, part in enumerate(parts):
            seconds = granted(left, part, parts[number + 1 :])
            assert seconds == 0 or part.least <= seconds <= min(part.wish, left)
            left -= seconds
        assert left >= 0


def test_time_that_is_not_used_goes_to_those_behind():
    first, last = Part("a", "m", wish=100, least=40), Part("b", "m", wish=300, least=60)
    assert granted(250, first, [last]) == 100
    assert granted(250 - 20, last, []) == 230, "the first took 20 s"
    assert granted(120, first, [last]) == 60, "the last keeps its least"
    assert granted(50, first, [last]) == 40, "too little for both: the first alone"
    assert granted(30, first, [last]) == 0


def test_all_parts_have_their_least_within_nine_minutes_also_after_a_long_installation():
    assert LIMIT < 540
    left = LIMIT - 120
    for number, part in enumerate(PARTS):
        seconds = granted(left, part, PARTS[number + 1 :])
        assert seconds >= part.least
        left -= seconds
    assert left >= 0


def test_figures_beside_their_aims(tmp_path: Path):
    kept = FigureFile(tmp_path / "part.json", "encoder")
    kept.add("MFU", 52.04, "%", target=50)
    kept.add("loss", 0.95, target=0.9, at_least=False)
    kept.add("published way", None, "×", target=2.0, note="does not fit")
    kept.add("seconds", 1.25, "s")
    kept.keep(curve=[1, 2])
    figures, more = read_figures(tmp_path / "part.json")
    assert [figure.met for figure in figures] == [True, False, None, None] and more == {"curve": [1, 2]}
    lines = table(figures).splitlines()
    assert lines[2] == "| encoder | MFU | 52.04 % | ≥ 50 % | met |  |"
    assert lines[3] == "| encoder | loss | 0.95 | ≤ 0.9 | not met |  |"
    assert lines[4] == "| encoder | published way | – | ≥ 2 × | not measured | does not fit |"
    assert lines[5] == "| encoder | seconds | 1.25 s |  |  |  |"
    assert {line.count("|") for line in lines} == {7}
    assert read_figures(tmp_path / "none.json") == ([], {})


def test_a_stage_as_a_figure():
    row = Row("encode", seconds=0.02, gflop=2000, limit_seconds=0.01, peak_gib=3.21, note="x")
    shown = line_of(Figure("encoder", **of_row(row, nominal=400e12)))
    assert "| 20 ms |" in shown and "MFU 50 %, 25 % of the nominal peak, peak 3.2 GiB, x" in shown
    assert utilisation(2000, 0.02, 200e12) == pytest.approx(50)


def test_cards_by_name():
    known = {"NVIDIA H200": 989, "NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835}
    known |= {"NVIDIA A100-SXM4-80GB": 312, "NVIDIA L40S": 362, "NVIDIA L4": 121, "NVIDIA A10G": 70, "NVIDIA A10": 125}
    for name, teraflops in known.items():
        assert nominal_flops(name) == teraflops * 1e12, name
    assert nominal_flops("CPU") is None and nominal_flops("NVIDIA A1000") is None


def test_errors_and_differences_of_answers():
    exact = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    assert relative_error([torch.tensor([3.0, 0.3]), torch.tensor([0.4, 4.0])], exact) == pytest.approx(0.1)
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


def test_a_history_is_read_up_to_where_it_was_cut(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    rows = [{"step": n, "train/loss": 10.0 - n} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 9, "dice": 1}]) + '{"step": 10, "tr')
    read = learning.rows_of(path)
    assert read == rows and learning.rows_of(tmp_path / "none") == []
    assert learning.begin_and_end([row["train/loss"] for row in read]) == (9.5, 1.5)
    assert learning.begin_and_end([4.0]) == (4.0, 4.0)


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    (tmp_path / "fake_part.py").write_text(
        "import json, subprocess, sys, time\n"
        "words = sys.argv\n"
        "if '--fail' in words: sys.exit('no such weights')\n"
        "figure = {'part': 'fake', 'name': 'n', 'value': 1.0}\n"
        "content = json.dumps({'figures': [figure], 'more': {}})\n"
        "open(words[words.index('--figures') + 1], 'w').write(content)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    return Part("fake", "fake_part")


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_part_that_hangs_is_ended_with_its_children_and_leaves_its_figures(part: Part, tmp_path: Path):
    ended = run_part(part, 3, tmp_path, tmp_path, rehearsal=False)
    assert ended.status is None and ended.seconds < 30 and "ended there" in ended.said
    assert exit_status([ended]) == 1
    assert [figure.value for figure in read_figures(tmp_path / "fake.json")[0]] == [1.0]
    assert ends_soon(int((tmp_path / "fake.log").read_text().split()[1]))


def ends_soon(process: int) -> bool:
    for _ in range(100):
        if not is_running(process):
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_is_told_to_end_ends_its_part(part: Part, tmp_path: Path):
    code = (
        "import sys; from benchmarks.gpu import __main__ as command; from benchmarks.gpu.budget import Part; "
        "command.PARTS = (Part('fake', 'fake_part'),); sys.argv[1:] = ['--rehearsal', '--output', sys.argv[1]]; "
        "sys.exit(command.main())"
    )
    command = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY)
    log = tmp_path / "fake.log"
    try:
        for _ in range(600):
            if log.is_file() and log.read_text().endswith("\n"):
                break
            time.sleep(0.05)
        child = int(log.read_text().split()[1])
        assert is_running(child)
        command.terminate()
        assert command.wait(timeout=20) == 143
    finally:
        command.kill()
    assert ends_soon(child)


def test_a_part_that_fails_is_told_with_its_last_line(part: Part, tmp_path: Path):
    failing = Part(part.name, part.module, ("--fail",))
    ended = run_part(failing, 20, tmp_path, tmp_path, rehearsal=False)
    assert ended.status == 1 and ended.said.endswith("failed with status 1: no such weights")
    assert exit_status([ended]) == 1
    done, left_out = Ended("a", 1.0, 2.0, 0, ""), Ended("b", 0.0, 0.0, None, "")
    assert exit_status([done, done]) == 0 and exit_status([done, left_out]) == 1
    aims = [Figure("fake", "n", 1.0, target=2.0), Figure("fake", "m", 3.0, target=2.0)]
    text = report(tmp_path, aims, [ended], {"encoder": {"machine": "a card"}}, rehearsal=True)
    assert text.startswith("a card\n") and "1 of 2 aims are met" in text and "rehearsal" in text
    assert json.loads((tmp_path / "results.json").read_text())["parts"][0]["last_line"] == "no such weights"


@pytest.mark.parametrize("status", [0, 3])
def test_training_that_fails_fails_its_part_after_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    (tmp_path / "train_encoder_2D1D.py").write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--run_dir') + 1])\n"
        "folder.mkdir()\n"
        "rows = [{'train/loss': 4 / n, 'train/seconds': 1, 'train/data_seconds': 0} for n in range(1, 11)]\n"
        "(folder / 'history.jsonl').write_text(''.join(json.dumps(row) + chr(10) for row in rows))\n"
        f"sys.exit({status})\n"
    )
    work = tmp_path / "work"
    (work / "phantoms").mkdir(parents=True)
    (work / "phantoms" / "train.json").touch()
    monkeypatch.setattr(learning, "ROOT", tmp_path)
    words = ["learning", "--rehearsal", "--work", str(work), "--figures", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", words)
    if status:
        with pytest.raises(InputError, match="training failed; see the log"):
            learning.main()
    else:
        learning.main()
    figures, more = read_figures(tmp_path / "figures.json")
    assert figures[0].name == "training steps" and figures[0].value == 1 and more["training_status"] == status


@pytest.mark.parametrize(
    ("words", "said"),
    [(["collect"], "collect needs a folder"), (["collect", "wheels"], "error: nothing is not in requirements.lock")],
)
def test_what_cannot_be_collected_is_told(tmp_path: Path, words: list[str], said: str):
    (tmp_path / "benchmarks" / "gpu").mkdir(parents=True)
    shutil.copy(REPOSITORY / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "gpu" / "packages.txt").write_text("nothing\n")
    (tmp_path / "requirements.lock").write_text("nothing-else==1.0 ; python_version > '3'\n")
    done = subprocess.run(["bash", "benchmarks/gpu.sh", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith(f"{said}\n")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_rehearsal_runs_through(tmp_path: Path):
    command = ["bash", "benchmarks/gpu.sh", "--rehearsal", "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [end["status"] for end in result["parts"]] == [0] * len(PARTS)
    assert {figure["part"] for figure in result["figures"]} == {part.name for part in PARTS}
    assert all(figure["value"] is not None for figure in result["figures"])
    assert len(list((tmp_path / "out").iterdir())) <= 8


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_compiled_answers_are_measured_where_they_are_asked_for(tmp_path: Path):
    assert "compiled answers" not in {part.name for part in PARTS}, "compiling would take the time of the others"
    command = ["bash", "benchmarks/gpu.sh", "--parts", "compiled answers", "--output", str(tmp_path), "--rehearsal"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = {one["name"]: one["value"] for one in json.loads((tmp_path / "results.json").read_text())["figures"]}
    for how in ("greedily", "by 5 beams"):
        name = f"tokens of an answer {how}"
        assert values[f"{name}, compiled, faster"] == pytest.approx(values[f"{name}, compiled"] / values[name])
