"""A training step of CTInstruct with 2B shapes, and what fits into 24, 40 and 80 GB, by the script that trains.

    python -m benchmarks.memory_report                    # full tuning, ZeRO-2, as published
    python -m benchmarks.memory_report --lora
    python -m benchmarks.memory_report --rehearsal        # tiny sizes, resident memory where there is no GPU

The language model has Qwen2-VL-2B's shapes and random weights, vision is the published size.  A step is an update by
two micro-batches, so that gradients are accumulated as in a run.  Patches of one volume, then volumes in a micro-batch,
are raised until the peak of memory passes each limit; every sample has one mask on all slices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import monotonic

from benchmarks.gpu.card import about, memory_gib
from benchmarks.gpu.random_language import language_folder
from benchmarks.gpu.scale import Given, given
from benchmarks.measure import device
from benchmarks.memory_search import largest_within
from benchmarks.tuning_step import prepared
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from training.script import run_script

CARDS = (24.0, 40.0, 80.0)  # GB
BESIDE = 1.5  # GB that the CUDA context, libraries and unused rests of blocks take beside what is allocated
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
    """All figures of one way to train."""
    figures, scale = run.figures, run.scale
    trainer = prepared(arguments(run, lora))
    trainer.step(1)  # makes the optimiser's moments
    repeats = 1 if run.rehearsal else 2
    seconds, peak = min(trainer.step(1) for _ in range(repeats))
    figures.add("step on volumes of 1 patch", seconds, "s", note=f"peak {peak:.1f} GiB")
    limits = limits_of(peak, cards)

    patches = scale.patches
    updates = [trainer.step(patches) for _ in range(repeats)]
    seconds, peak = min(updates)
    visual, tokens = trainer.tokens(patches)
    samples = trainer.settings.accumulation_steps
    note = f"{samples} samples of {visual} visual tokens and {tokens - visual} others, with one mask each"
    figures.add(f"step on volumes of {patches} patches", seconds, "s", note=note)
    figures.add(f"peak memory of a step on volumes of {patches} patches", max(peak for _, peak in updates), "GiB")
    figures.add("tokens trained on", samples * tokens / seconds, "/s", note=f"{samples / seconds:.2f} volumes a second")

    def by_patches(size: int) -> float:
        return trainer.step(size)[1]

    def by_volumes(size: int) -> float:
        return trainer.step(patches, size)[1]

    def until(end: float) -> Callable[[], bool]:
        return lambda: not trainer.broken and monotonic() < end - LAST_SECONDS

    first = until(monotonic() + 0.6 * (end - monotonic()))
    _search(run, "largest volume", "patches", by_patches, limits, scale.most_patches, first)
    what = f"largest micro-batch of {patches} patches each"
    _search(run, what, "volumes", by_volumes, limits, scale.most_volumes, until(end))


def _search(
    run: Given,
    what: str,
    unit: str,
    peak_of: Callable[[int], float],
    limits: dict[str, float],
    most: int,
    go_on: Callable[[], bool],
) -> None:
    card = memory_gib() or float("inf")
    there = {name: limit for name, limit in limits.items() if limit < card}
    found, peaks = largest_within(peak_of, list(there.values()), most, go_on)
    by_limit = {one.limit: one for one in found}
    for name, limit in limits.items():
        if limit not in by_limit:
            run.figures.add(f"{what} on a card of {name}", None, unit, note="this card is smaller")
            continue
        one = by_limit[limit]
        note = "" if one.exact else "at least: the search ended there"
        if not one.size and one.exact:
            note = "not even one fits"
        run.figures.add(f"{what} on a card of {name}", one.size, unit, note=note)
    run.figures.keep(**{f"{what}, GiB by {unit}": {str(size): round(peak, 3) for size, peak in peaks.items()}})


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    begun = monotonic()

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--lora", action="store_true", help="adapters in place of the whole language model")
        parser.add_argument("--gigabytes", type=float, nargs="+", help="of the cards (default: 24 40 80)")

    run, options = given("tuning", __doc__, more)
    run.figures.keep(machine=about()[0])
    measure(run, options.lora, options.gigabytes, begun + run.seconds)


if __name__ == "__main__":
    run_script(main)
