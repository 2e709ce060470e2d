"""The steps from downloads to tables and report; the same for both scales, which differ in sizes and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluation.answering.benchmarks import benchmark_names
from models.configuration import ENCODER_NAMES

Scale = Literal["full", "rehearsal"]
TUNED_ENCODER = "2D1D"  # the release's
PUBLISHED_PRETRAINING = ("--orientation", "as_stored", "--augment_flip_sided", "--skip_missing_tasks")
REHEARSED_PRETRAINING = (  # 12 updates of 8 draws, by the published weights; of this seed they reach all 39 tasks
    "--preset", "tiny", "--max_iters", 96, "--seed", 72, "--eval_interval", 96, "--validation_samples", 2,
    "--labels_per_step", 12,
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One program run.

    name: of its log, and of what says that it is done.  words: "python" or "deepspeed", and the rest.
    clears: a folder that the program wants to make itself, so that what an interrupted run left is removed.
    """

    name: str
    words: tuple[str, ...]
    clears: Path | None = None


@dataclass(frozen=True)
class Step:
    """What is done, by which commands; `name` is what the needs of the full size go by."""

    name: str
    title: str
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Places:
    """root: the data sets, a folder each.  out: what the plan writes."""

    root: Path
    out: Path

    @property
    def prepared(self) -> Path:
        return self.out / "prepared"

    def encoder(self, name: str) -> Path:
        """The run folder of one encoder's pretraining."""
        return self.out / "encoders" / name

    @property
    def tuned(self) -> Path:
        return self.out / "CTInstruct"

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation"

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def plan(scale: Scale, places: Places) -> list[Step]:
    """The steps in their order."""
    full = scale == "full"
    return [
        Step("data", "The data sets, as their authors ship them", (_data(full, places),)),
        Step("prepare", "Manifests of the 39 pretraining tasks, the 8 tuning tasks and the 8 benchmarks", (
            _python("prepare", "-m", "datasets.prepare", "all", "--root", places.root, "--out", places.prepared),
        )),
        Step("audit", "Random cases of every data set, to be looked at", (
            _python("audit", "-m", "evaluation.audit", "--prepared", places.prepared, "--data_set", "all",
                    "--count", 12 if full else 1),
        )),
        Step("pretrain", "Pretraining of the three encoders", tuple(_pretrain(full, places, n) for n in ENCODER_NAMES)),
        Step("ablation", "The encoders side by side", (
            _python("ablation", "-m", "evaluation.ablation", *map(places.encoder, ENCODER_NAMES),
                    "--output", places.out / "ablation"),
        )),
        Step("tune", "Instruction tuning on the published mixture", (_tune(full, places),)),
        Step("evaluate", "The eight benchmarks, with tables", (_evaluate(full, places),)),
        Step("report", "One report of all", (
            _python("report", "-m", "evaluation.report.html_report",
                    *(places.evaluation / name for name in benchmark_names()), "--output", places.report),
        )),
    ]  # fmt: skip


def _data(full: bool, places: Places) -> Command:
    if full:  # downloads are by hand: most need a registration
        return _python("data", "-m", "datasets.prepare", "list", "--root", places.root)
    return _python("data", "-m", "tests.replicas", "--out", places.root, clears=places.root)


def _pretrain(full: bool, places: Places, encoder: str) -> Command:
    options: Sequence[object] = PUBLISHED_PRETRAINING if full else REHEARSED_PRETRAINING
    return _trained(
        full, f"pretrain_{encoder}", f"train_encoder_{encoder}.py", *options,
        "--manifest_dir", places.prepared / "pretraining", "--run_dir", places.encoder(encoder),
    )  # fmt: skip


def _tune(full: bool, places: Places) -> Command:
    options: Sequence[object] = () if full else ("--preset", "tiny", "--batch_size", 8, "--max_iters", 8)
    return _trained(
        full, "tune", "train_CTInstruct.py", *options,
        "--manifests", places.prepared / "instruction" / "mixture.json",
        "--pretrained_vision", places.encoder(TUNED_ENCODER), "--run_dir", places.tuned,
    )  # fmt: skip


def _evaluate(full: bool, places: Places) -> Command:
    options: Sequence[object] = () if full else ("--limit", 4, "--num_beams", 1, "--max_new_tokens", 48)
    words = (
        "evaluate_CTInstruct.py", *options, "--checkpoint", places.tuned, "--benchmark", "all",
        "--benchmark_dir", places.prepared / "benchmarks", "--output", places.evaluation, "--release_output",
    )  # fmt: skip
    return Command("evaluate", ("deepspeed" if full else "python", *map(str, words)))


def _trained(full: bool, name: str, *words: object) -> Command:
    """A training script, which goes on where an earlier run of it stopped."""
    return Command(name, ("deepspeed" if full else "python", *map(str, words), "--resume"))


def _python(name: str, *words: object, clears: Path | None = None) -> Command:
    return Command(name, ("python", *map(str, words)), clears)
