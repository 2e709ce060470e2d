"""evaluate_CTInstruct.py on the eight benchmarks made of phantoms, killed and resumed, on one and two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from evaluation.answering.benchmarks import BENCHMARKS, benchmark_names, load_benchmark
from evaluation.metrics.release_protocol import DIAGNOSIS_METRICS, TEXT_METRICS
from evaluation.metrics.text import meteor_name
from evaluation.phantom_benchmarks import write_phantom_benchmarks
from models.checkpoints.folder import save_checkpoint
from tests.tiny_model import tiny_ctinstruct
from training.distributed import free_port

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[1]

# Every figure that an answer of some task is scored by, and the tasks of each benchmark when it is made of phantoms.
BLEU = {f"{kind}bleu_{order}" for kind in ("", "corpus_") for order in (1, 2, 3, 4)}
TEXT = {*BLEU, "rouge_1", "rouge_2", "rouge_l", meteor_name(), "exact_match", "token_f1", "bertscore", *TEXT_METRICS}
REPORT = TEXT | {f"ce_{mean}_{name}" for mean in ("micro", "macro") for name in ("f1", "precision", "recall")} | {"crg"}
DIAGNOSIS = {"auc", "average_precision", "f1", "accuracy", "precision", "recall", *DIAGNOSIS_METRICS}
SEGMENTATION = {"dice", "nsd", "hd95", "dice_release_protocol"}
FIGURES: dict[str, dict[str, set[str]]] = {
    "RadChestCT": {"diagnosis": DIAGNOSIS},
    "CT-RATE-diagnosis": {"diagnosis": DIAGNOSIS},
    "AbdomenCT-1K": {"segmentation": SEGMENTATION},
    "CT-ORG": {"segmentation": SEGMENTATION},
    "TotalSegmentator": {"segmentation": SEGMENTATION},
    "CT-RATE-VQA": {"open_vqa": TEXT, "yes_no": {"accuracy"}, "multiple_choice": {"accuracy"}},
    "M3D-Cap": {"report_generation": REPORT},
    "M3D-VQA": {"open_vqa": TEXT},
}
# No model folder is given, nltk's data may not be installed, and an untrained model gives no mask and no confidence.
WITHOUT_A_VALUE = {"bertscore", "meteor_release_protocol", "hd95", "dice_release_protocol", *DIAGNOSIS_METRICS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms as the eight benchmarks in `benchmarks`, an untrained model in `model`."""
    folder = tmp_path_factory.mktemp("benchmarks")
    coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
    write_dataset(DatasetOptions(folder / "phantoms", count=2, split=(0.0, 0.0, 1.0), case=coarse))
    write_phantom_benchmarks(folder / "phantoms", folder / "benchmarks")
    save_checkpoint(tiny_ctinstruct(), folder / "model")
    return folder


def command(place: Path, output: Path, *more: str, ranks: int = 1) -> list[str]:
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    prefix = [launcher, "--num_accelerators", str(ranks), "--master_port", str(free_port())] if ranks > 1 else []
    return [
        *(sys.executable, *prefix, "evaluate_CTInstruct.py", "--checkpoint", str(place / "model")),
        *("--benchmark_dir", str(place / "benchmarks"), "--output", str(output), "--batch_size", "4"),
        *("--num_beams", "2", "--max_new_tokens", "8", *more),
    ]


def environment() -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return {**keep, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def start(arguments: list[str]) -> None:
    done = subprocess.run(arguments, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def predictions(folder: Path) -> list[dict]:
    return json.loads((folder / "predictions.json").read_text().replace(str(folder), ""))


@pytest.fixture(scope="module")
def all_eight(place: Path) -> Path:
    start(command(place, place / "eight", "--benchmark", "all", ranks=2))
    return place / "eight"


def test_all_eight_benchmarks_run_to_their_figures(place: Path, all_eight: Path):
    together = json.loads((all_eight / "metrics.json").read_text())
    assert list(together) == benchmark_names()
    for benchmark in BENCHMARKS:
        folder = all_eight / benchmark.name
        records = load_benchmark(benchmark.name, place / "benchmarks")[0]
        assert [row["id"] for row in predictions(folder)] == [record.id for record in records]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics == together[benchmark.name] and metrics["counts"]["samples"] == len(records)
        assert metrics["counts"]["failed"] == 0 and set(metrics["tasks"]) <= set(benchmark.tasks)
        computed = {
            task: [part["metrics"] for part in figures.get("label_sets", {"": figures}).values()]
            for task, figures in metrics["tasks"].items()
        }
        assert {task: len(parts) for task, parts in computed.items()} == dict.fromkeys(FIGURES[benchmark.name], 1)
        for task, (figures,) in computed.items():
            assert set(figures) == FIGURES[benchmark.name][task], f"{benchmark.name}, {task}"
            without = {name for name, figure in figures.items() if figure["value"] is None}
            assert without <= WITHOUT_A_VALUE, f"{benchmark.name}, {task}"
        assert (folder / "report.html").stat().st_size > 10_000
    table = (all_eight / "tables" / "tables.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in table for name in benchmark_names())
    report = (all_eight / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in benchmark_names()) and "http" not in report.replace("http-equiv", "")


def test_a_model_that_never_says_seg_has_dice_zero(all_eight: Path):
    for name in ("AbdomenCT-1K", "CT-ORG", "TotalSegmentator"):
        rows = predictions(all_eight / name)
        assert rows and not any("<SEG>" in row["prediction"] for row in rows), "an untrained model does not say it"
        task = json.loads((all_eight / name / "metrics.json").read_text())["tasks"]["segmentation"]
        assert task["metrics"]["dice"]["value"] == 0 and task["metrics"]["dice"]["n"] == len(rows)
        assert task["without_mask"] == len(rows)


def test_a_killed_run_resumes_to_the_same_predictions(place: Path, all_eight: Path, tmp_path: Path):
    arguments = command(place, tmp_path, "--benchmark", "CT-RATE-VQA")
    process = subprocess.Popen(arguments, cwd=REPOSITORY, env=environment(), stderr=subprocess.DEVNULL)
    lines = tmp_path / "predictions.rank0.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (lines.exists() and lines.read_text().count("\n") >= 4):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = lines.read_text().count("\n")
    expected = predictions(all_eight / "CT-RATE-VQA")
    assert 4 <= finished < len(expected) and not (tmp_path / "predictions.json").exists()
    start(arguments)
    assert predictions(tmp_path) == expected  # of two ranks that were not interrupted
    assert lines.read_text().count("\n") == len(expected), "nothing was answered twice"


def test_thresholds_and_figures_of_another_split_are_taken(place: Path, all_eight: Path, tmp_path: Path):
    validation = all_eight / "CT-RATE-diagnosis" / "predictions.json"
    start(command(place, tmp_path, "--benchmark", "ctrate-diagnosis", "--validation_predictions", str(validation)))
    part = json.loads((tmp_path / "metrics.json").read_text())["tasks"]["diagnosis"]["label_sets"]["CT-RATE"]
    assert part["threshold_source"] == "validation"
    assert predictions(tmp_path) == predictions(all_eight / "CT-RATE-diagnosis")
