"""The paper's tables from the data sets' downloads: `bash reproduce.sh` sets up and calls this.

bash reproduce.sh --root /data            # prints the commands of the full size with what they need; runs nothing
bash reproduce.sh --scale rehearsal       # runs them on miniatures of all data sets, in minutes on two CPU cores
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reproduction.needs import found_lines, needs
from benchmarks.reproduction.plan import Places, plan
from benchmarks.reproduction.running import run_plan
from datasets.errors import InputError, OneLineError
from datasets.prepare.registry import data_sets


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="bash reproduce.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("full", "rehearsal"), default="full")
    parser.add_argument("--root", type=Path, help="folder of the data sets, a folder each; the rehearsal makes its own")
    parser.add_argument("--out", type=Path, help="default: runs/reproduction, of the rehearsal runs/rehearsal")
    options = parser.parse_args(arguments)
    if options.scale == "full":
        _print_plan(Places(options.root or Path("/data"), options.out or Path("runs/reproduction")))
        return 0
    out = options.out or Path("runs/rehearsal")
    places = Places(out / "replicas", out)
    try:
        if options.root is not None:
            raise InputError("--root: the rehearsal makes miniatures of the data sets itself; leave it out")
        run_plan(plan("rehearsal", places), out)
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\ntables in {places.evaluation}, ablation in {out / 'ablation'}, report {places.report}")
    print("These are figures of a few steps on miniatures: they show that every part works, and nothing else.")
    return 0


def _print_plan(places: Places) -> None:
    """Every step with its commands, needs, and what of the data is there."""
    known = data_sets()
    needed = needs(known)
    print("Nothing is run. The commands of the full size, one after the other:")
    for number, step in enumerate(plan("full", places), 1):
        print(f"\n== {number}. {step.title}")
        for command in step.commands:
            print(f"   {shlex.join(command.words)}")
        print(f"   # {needed[step.name]}")
        for line in found_lines(places.root, known) if step.name == "data" else ():
            print(f"   # {line}")
    print("\nHours follow from counted operations (docs/scaling.md), not from a run: the full size was never run here.")


if __name__ == "__main__":
    sys.exit(main())
