"""Pretraining on 50,000 and on 1,000,000 CTs, on paper: days, storage, what has to flow, loaders, failures.

    python -m benchmarks.plan_for_many --gpus 64

The operations of a volume are those of docs/scaling.md; every other assumption is an argument, and every formula is a
function below.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from math import sqrt

from benchmarks.reproduction.needs import ENCODE_GFLOP, MASK_GFLOP
from benchmarks.scaling import SECONDS_A_DAY, pretraining_flop
from train_encoder_2D1D import HyperParameters


@dataclass
class Assumptions:
    """What is not counted here.

    passes: how often each CT is drawn.  peak: bf16 of a GPU in TFLOP/s, of which training reaches `utilisation`.
    raw_mb: a CT as .nii.gz.  cached_mb: its cache entry.  loader_ms: of a core, a cached volume (benchmarks.loader).
    failure_hours: GPU-hours from one failure to the next; 419 in 54 days of 16,384 GPUs (Grattafiori et al. 2024, The
    Llama 3 herd of models).  restart_minutes: from a failure to the first step after it.  save_seconds: that a
    checkpoint holds training up.
    """

    gpus: int = 64
    gpus_a_node: int = 8
    passes: int = 20
    peak: float = 312.0
    utilisation: float = 0.3
    raw_mb: float = 80.0
    cached_mb: float = 25.2
    loader_ms: float = 110.0
    failure_hours: float = 54 * 24 * 16_384 / 419
    restart_minutes: float = 15.0
    save_seconds: float = 15.0


def volumes_a_second(assumed: Assumptions) -> float:
    """Of one GPU, over the published mix of tasks."""
    flop, volumes = pretraining_flop(ENCODE_GFLOP, MASK_GFLOP, HyperParameters(), assumed.gpus)
    return assumed.peak * 1e12 * assumed.utilisation / (flop / volumes)


def failures_a_day(assumed: Assumptions) -> float:
    """Of the whole run: each GPU, and the share of its node, fails by itself."""
    return 24 * assumed.gpus / assumed.failure_hours


def best_save_interval(assumed: Assumptions) -> float:
    """Seconds between checkpoints that lose least: the root of 2 * save * time to a failure (Young 1974)."""
    return sqrt(2 * assumed.save_seconds * SECONDS_A_DAY / failures_a_day(assumed))


def lost_share(assumed: Assumptions) -> float:
    """Of the time, at that interval: saving, half an interval made again after each failure, and starting again."""
    interval, between = best_save_interval(assumed), SECONDS_A_DAY / failures_a_day(assumed)
    return assumed.save_seconds / interval + (interval / 2 + 60 * assumed.restart_minutes) / between


def plan(volumes: int, assumed: Assumptions) -> dict[str, str]:
    """The figures for so many CTs, each with its unit."""
    rate = volumes_a_second(assumed)
    nodes = assumed.gpus / assumed.gpus_a_node
    return {
        "days": f"{volumes * assumed.passes / (rate * assumed.gpus) / SECONDS_A_DAY:.1f}",
        "CTs, TB": f"{volumes * assumed.raw_mb / 1e6:.0f}",
        "cache, TB": f"{volumes * assumed.cached_mb / 1e6:.1f}",
        "cache a node, TB": f"{volumes * assumed.cached_mb / 1e6 / nodes:.2f}",
        "read, GB/s": f"{rate * assumed.gpus * assumed.cached_mb / 1e3:.1f}",
        "read a node, GB/s": f"{rate * assumed.gpus_a_node * assumed.cached_mb / 1e3:.2f}",
        "loader cores a GPU": f"{rate * assumed.loader_ms / 1e3:.2f}",
        "failures a day": f"{failures_a_day(assumed):.3f}",
        "save every, hours": f"{best_save_interval(assumed) / 3600:.1f}",
        "lost to failures": f"{100 * lost_share(assumed):.2f} %",
    }


def table(columns: dict[str, dict[str, str]]) -> str:
    """Markdown, a column for each plan."""
    lines = [f"| | {' | '.join(columns)} |", "| --- " + "| --: " * len(columns) + "|"]
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | {' | '.join(column[name] for column in columns.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, nargs="+", default=[50_000, 1_000_000])
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    volumes = options.pop("volumes")
    assumed = Assumptions(**options)
    print(table({f"{count:,} CTs, {assumed.gpus} GPUs": plan(count, assumed) for count in volumes}))


if __name__ == "__main__":
    main()
