"""This project beside others in one run, on this machine, with random weights.

    python -m pip install --no-deps -r benchmarks/peers/requirements.txt
    python -m benchmarks.peers [--quick] [--parts organs encoders language] [--windows 3] [--precision fp32]
        [--clock cpu]

All organs of a CT by an nnU-Net of TotalSegmentator's size and by our masks; encoders at equal input; transformers' own
search for answers and ours.  Without the package of the first line nnU-Net's row is left out.  Each measurement has a
process of its own; all are in the precision that models answer in on this machine.  Writes peers.md, peers.json and
peers.png to the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track

from benchmarks import machine
from benchmarks.measure import Clock, choose_clock, choose_precision
from benchmarks.own_process import json_of_process
from benchmarks.peers.measurements import MEASUREMENTS, ON_REQUEST, PARTS, Extent, names_of, title
from benchmarks.peers.nnunet import MISSING, installed
from benchmarks.peers.organs import window_count
from benchmarks.peers.rows import PeerRow
from benchmarks.peers.table import bar_plot, tables
from datasets.errors import InputError
from datasets.whole_files import write_whole_text
from models.precision import AnswerPrecision


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="a smaller CT and single passes")
    options.add_argument("--parts", nargs="+", choices=PARTS, help="these alone; the larger language models are so had")
    options.add_argument("--windows", type=int, help="of nnU-Net's, of each network, to time; the rest is reckoned")
    options.add_argument("--precision", choices=get_args(AnswerPrecision), default="auto", help="of all contestants")
    options.add_argument("--clock", choices=get_args(Clock), default="wall", help="cpu: where others use the cores too")
    options.add_argument("--output", type=Path, default=Path("benchmarks_output"))
    options.add_argument("--one", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    return options


def extent_of(options: argparse.Namespace) -> Extent:
    """How much is measured; InputError for a number of windows that the CT has not."""
    windows: int | None = options.windows
    most = window_count(options.quick)
    if windows is not None and not 1 <= windows <= most:
        raise InputError(f"--windows {windows}: nnU-Net has {most} on this CT; give 1 to {most}")
    return Extent(options.quick, windows)


def measure(names: Sequence[str], options: argparse.Namespace, console: Console) -> tuple[list[PeerRow], list[str]]:
    """Rows of the measurements, each in a process of its own, and what failed."""
    rows, failures = [], []
    words = ["--precision", options.precision, "--clock", options.clock, *(["--quick"] if options.quick else [])]
    words += ["--windows", str(options.windows)] if options.windows else []
    for name in track(names, description="peers", console=console):
        found, error = json_of_process("benchmarks.peers", ["--one", name, *words])
        if error:
            failures.append(f"{name} failed: {error}")
        else:
            rows += [PeerRow(**row) for row in found]
    return rows, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    options = parser().parse_args(arguments)
    choose_precision(options.precision)
    choose_clock(options.clock)
    try:
        extent = extent_of(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.one:
        print(json.dumps([vars(row) for row in MEASUREMENTS[options.one](extent)]))
        return 0
    console, notes = Console(), []
    parts = options.parts or [part for part in PARTS if part not in ON_REQUEST]
    if "organs" in parts and not installed():
        notes.append(MISSING)
        console.print(MISSING, markup=False, highlight=False, soft_wrap=True)
    about = machine.about().line + (", seconds of processor time" if options.clock == "cpu" else "")
    found: dict[str, Sequence[PeerRow]] = {}
    for part in parts:
        rows, failures = measure(names_of(part, extent, installed()), options, console)
        found[title(part, extent)] = rows
        notes += failures
        text = "\n\n".join([about, tables(found), *notes]) + "\n"
        write(options.output, about, text, found)  # after each part, for the whole may be stopped
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(note != MISSING for note in notes) else 0


def write(folder: Path, about: str, text: str, found: dict[str, Sequence[PeerRow]]) -> None:
    """peers.md, peers.json and peers.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole_text(folder / "peers.md", text)
    content: dict[str, Any] = {part: [vars(row) for row in rows] for part, rows in found.items()}
    write_whole_text(folder / "peers.json", json.dumps({"machine": about, "parts": content}, indent=2) + "\n")
    if rows := [row for part in found.values() for row in part]:
        bar_plot(rows, about, folder / "peers.png")


if __name__ == "__main__":
    sys.exit(main())
