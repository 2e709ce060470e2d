"""A training step of CTInstruct with 2B shapes, and what fits into 24, 40 and 80 GB, by the script that trains.

    python -m benchmarks.memory_report                    # full tuning, ZeRO-2, as published
    python -m benchmarks.memory_report --lora
    python -m benchmarks.memory_report --rehearsal        # tiny sizes, resident memory where there is no GPU

The language model has Qwen2-VL-2B's shapes and random weights, vision is the published size.  A step is an update by
two micro-batches, so that gradients are accumulated as in a run.  Patches of one volume, then volumes in a micro-batch,
are raised until the peak of memory passes each limit; every sample has one mask on all slices.  The largest limit comes
last in both: where memory runs out within a step, nothing after it can be measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from time import monotonic

import torch

from benchmarks.gpu.random_language import language_folder
from benchmarks.gpu.scale import Given, given
from benchmarks.machine import about, memory_gib
from benchmarks.measure import device
from benchmarks.memory_search import DoesNotFit, Largest, largest_within
from benchmarks.tuning_step import TuningStep, prepared
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from training.script import run_script

CARDS = (24.0, 40.0, 80.0)  # GB
BESIDE = 1.5  # GB that the CUDA context, libraries and unused rests of blocks take beside what is allocated
TOO_LARGE = "does not fit into this card's memory"
LAST_SECONDS = 8.0  # no trial is begun with less left


def arguments(run: Given, lora: bool) -> list[str]:
    """For train_CTInstruct.py: the published recipe, but for the language model, and micro-batches in twos."""
    phantoms = run.work / "two_phantoms"
    if not (phantoms / "train.json").is_file():
        coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
        write_dataset(DatasetOptions(phantoms, 2, split=(1.0, 0.0, 0.0), case=coarse), workers=2)
    options = {
        "manifests": str(phantoms / "train.json"),
        "run_dir": str(run.work / "run"),
        "language_model": str(language_folder(run.work, run.scale)),
        "vision": run.scale.vision,
        "batch_size": "2",
        "micro_batch": "1",
        "check_data": "off",
        "workers": "0",
        "max_length": "32768",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [*words, "--lora"] if lora else words


def limits_of(first: float, cards: list[float] | None) -> dict[str, float]:
    """GiB of peak memory by the card's name; on a CPU, where cards mean nothing, twelfths above the smallest step's."""
    if device().type != "cuda" and cards is None:
        return {f"{first * share:.2f} GiB": first * share for share in (13 / 12, 14 / 12)}
    return {f"{card:g} GB": (card - BESIDE) * 1e9 / 2**30 for card in cards or CARDS}


def measure(run: Given, lora: bool, cards: list[float] | None, end: float) -> None:
    """All figures of one way to train; `end` on the monotonic clock."""
    figures, patches = run.figures, run.scale.patches
    repeats = 1 if run.rehearsal else 2
    try:
        trainer = prepared(arguments(run, lora))
        trainer.step(1)  # makes the optimiser's moments
        seconds, peak = min(trainer.step(1) for _ in range(repeats))
    except (torch.OutOfMemoryError, DoesNotFit):
        figures.add("step on volumes of 1 patch", None, "s", note=TOO_LARGE)
        return
    figures.add("step on volumes of 1 patch", seconds, "s", note=f"peak {peak:.1f} GiB")
    limits = limits_of(peak, cards)
    try:
        _usual_step(run, trainer, repeats)
    except DoesNotFit:
        figures.add(f"step on volumes of {patches} patches", None, "s", note=TOO_LARGE)

    def go_on(until: float) -> bool:
        return not trainer.broken and monotonic() < until - LAST_SECONDS

    what = f"largest micro-batch of {patches} patches each"
    searches = [
        _Search(run, "largest volume", "patches", lambda size: trainer.step(size)[1], run.scale.most_patches),
        _Search(run, what, "volumes", lambda size: trainer.step(patches, size)[1], run.scale.most_volumes),
    ]
    smaller, largest = _largest_last(limits)
    turns = [(search, asked) for asked in (smaller, largest) for search in searches if asked]
    for behind, (search, asked) in zip(reversed(range(len(turns))), turns, strict=True):
        begun = monotonic()
        search.within(asked, partial(go_on, begun + (end - begun) / (1 + behind)))


def _usual_step(run: Given, trainer: TuningStep, repeats: int) -> None:
    """Figures of steps on volumes of the usual size; raises DoesNotFit."""
    figures, patches = run.figures, run.scale.patches
    updates = [trainer.step(patches) for _ in range(repeats)]
    seconds = min(updates)[0]
    visual, tokens = trainer.tokens(patches)
    samples = trainer.settings.accumulation_steps
    note = f"{samples} samples of {visual} visual tokens and {tokens - visual} others, with one mask each"
    figures.add(f"step on volumes of {patches} patches", seconds, "s", note=note)
    figures.add(f"peak memory of a step on volumes of {patches} patches", max(peak for _, peak in updates), "GiB")
    figures.add("tokens trained on", samples * tokens / seconds, "/s", note=f"{samples / seconds:.2f} volumes a second")


def _largest_last(limits: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """All limits but the largest that this card can reach, and that one alone."""
    card = memory_gib() or float("inf")
    largest = max((name for name, limit in limits.items() if limit < card), key=limits.__getitem__, default=None)
    smaller = {name: limit for name, limit in limits.items() if name != largest}
    return smaller, {} if largest is None else {largest: limits[largest]}


@dataclass
class _Search:
    """A size that is raised until memory is full, and the peaks (GiB) of those that were tried."""

    run: Given
    what: str
    unit: str
    peak_of: Callable[[int], float]
    most: int
    peaks: dict[int, float] = field(default_factory=dict)

    def within(self, limits: dict[str, float], go_on: Callable[[], bool]) -> None:
        """A figure for each limit, by its card's name."""
        figures, card = self.run.figures, memory_gib() or float("inf")
        reached = [limit for limit in limits.values() if limit < card]
        found, self.peaks = largest_within(self.peak_of, reached, self.most, go_on, self.peaks)
        by_limit = {one.limit: one for one in found}
        for name, limit in limits.items():
            value, note = None, "this card is smaller"
            if limit in by_limit:
                value, note = _told(by_limit[limit])
            figures.add(f"{self.what} on a card of {name}", value, self.unit, note=note)
        told = {str(size): round(peak, 3) if isfinite(peak) else None for size, peak in self.peaks.items()}
        figures.keep(**{f"{self.what}, GiB by {self.unit}": told})


def _told(found: Largest) -> tuple[int | None, str]:
    if found.exact:
        return found.size, "" if found.size else "not even one fits"
    return (found.size, "at least: the search ended there") if found.size else (None, "not tried")


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    begun = monotonic()

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--lora", action="store_true", help="adapters in place of the whole language model")
        parser.add_argument("--gigabytes", type=float, nargs="+", help="of the cards (default: 24 40 80)")

    run, options = given("tuning", __doc__, more)
    run.figures.keep(machine=about().line)
    measure(run, options.lora, options.gigabytes, begun + run.seconds)


if __name__ == "__main__":
    run_script(main)
