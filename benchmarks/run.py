"""Time and memory of every stage beside the limit of this machine, and what the project aims at.

    python -m benchmarks.run [--quick] [--stages vision1 loading ...] [--precision fp32] [--output benchmarks_output]

Each stage runs in a process of its own, so that its memory is its own.  The limit is a matrix product's speed, measured
in the same process just after the stage; "over limit" is measured time over the time that a matrix product takes for
as many operations, and MFU its inverse, above 100 % where a convolution does with fewer operations than are counted.
Both are in the precision that models answer in on this machine (--precision), stages of training on a CPU in float32.
Weights are random.  Writes results.md, results.json and cost.png, a plot of cost against volume size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import track

from benchmarks import (
    machine,
    stages_data,
    stages_language,
    stages_packed,
    stages_prompts,
    stages_quantized,
    stages_reading,
    stages_tiny,
    stages_vision,
)
from benchmarks.measure import Aim, Row, choose_precision, device
from benchmarks.own_process import json_of_process
from benchmarks.table import aims_table, cost_plot, rows_table
from models.precision import AnswerPrecision

Stage = Callable[[bool], tuple[list[Row], list[Aim]]]  # quick -> results


def _whatever(function: Callable, *arguments: object) -> Stage:
    """A stage that is the same, quick or not."""
    return lambda quick: function(*arguments)


def _prompts(size: str, quick: bool) -> tuple[list[Row], list[Aim]]:
    return stages_prompts.read_once(size, 4 if quick else 16)


STAGES: dict[str, Stage] = {
    "loading": stages_data.loading,
    "vision1": _whatever(stages_vision.encode_and_mask, 1),
    "vision2": _whatever(stages_vision.encode_and_mask, 2),
    "vision4": _whatever(stages_vision.encode_and_mask, 4),
    "vision6": _whatever(stages_vision.encode_and_mask, 6),
    "shared": _whatever(stages_vision.shared_work),
    "labels1": _whatever(stages_vision.many_labels, 1),
    "labels6": _whatever(stages_vision.many_labels, 6),
    "backward1": _whatever(stages_vision.backward, 1),
    "backward2": _whatever(stages_vision.backward, 2),
    "backward4": _whatever(stages_vision.backward, 4),
    "language": partial(lambda size, quick: stages_language.generation(size, 64 if quick else 128), "tiny"),
    "language135M": partial(lambda size, quick: stages_language.generation(size, 32 if quick else 64), "135M"),
    "int8": _whatever(stages_quantized.quantized_decoding, "135M", 32),
    "int8_2B": _whatever(stages_quantized.quantized_decoding, "2B", 16),
    "prompts": partial(_prompts, "small"),
    "prompts135M": partial(_prompts, "135M"),
    "prompts2B": partial(_prompts, "2B"),
    "reading": stages_reading.reading,
    "packed": _whatever(stages_packed.packed_questions),
    "tiny": stages_tiny.tiny,
}
ON_REQUEST = ("prompts2B", "int8_2B")  # heavier than the others together on two cores: by --stages alone
TRAINING = ("backward1", "backward2", "backward4", "packed", "tiny")
QUICK = ("loading", "reading", "vision1", "shared", "labels1", "language", "prompts", "packed", "tiny")


def in_own_process(name: str, quick: bool, precision: AnswerPrecision) -> tuple[list[Row], list[Aim]] | str:
    """Results of one stage, or the last line of what it died of."""
    if name in TRAINING and device().type == "cpu":
        precision = "fp32"
    arguments = ["--one", name, "--precision", precision, *(["--quick"] if quick else [])]
    result, error = json_of_process("benchmarks.run", arguments)
    if error:
        return error
    return [Row(**row) for row in result["rows"]], [Aim(**aim) for aim in result["aims"]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the stages that end in about five minutes on two cores")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="these alone")
    parser.add_argument("--precision", choices=get_args(AnswerPrecision), default="auto", help="that models answer in")
    parser.add_argument("--output", type=Path, default=Path("benchmarks_output"))
    parser.add_argument("--one", choices=STAGES, help="run a stage in this process and print JSON")
    options = parser.parse_args()
    choose_precision(options.precision)
    if options.one:
        rows, aims = STAGES[options.one](options.quick)
        print(json.dumps({"rows": [vars(row) for row in rows], "aims": [vars(aim) for aim in aims]}))
        return

    console, rows, aims, failures = Console(), [], [], []
    about = machine.about().line
    names = options.stages or (QUICK if options.quick else [name for name in STAGES if name not in ON_REQUEST])
    for name in track(names, description="stages", console=console):
        result = in_own_process(name, options.quick, options.precision)
        if isinstance(result, str):
            failures.append(f"{name} failed: {result}")
            continue
        rows += result[0]
        aims += result[1]
    text = f"{about}\n\n{rows_table(rows)}\n\n{aims_table(aims)}\n"
    text += "".join(f"\n{failure}\n" for failure in failures)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.md").write_text(text)
    content = {"machine": about, "rows": [vars(row) for row in rows], "aims": [vars(aim) for aim in aims]}
    (options.output / "results.json").write_text(json.dumps(content, indent=2))
    cost_plot(rows, options.output / "cost.png")
    console.print(text, markup=False, highlight=False)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
