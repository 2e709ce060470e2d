"""Compare this project with the outputs of the published network.

    python -m tests.parity [DIR] [--only GLOB]

checks every vector file of DIR that has a known name, prints a line each, and exits with status 1 where one fails.
Without DIR the files are those of tests/data/parity, whose README.md says how their inputs are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

VECTORS = Path(__file__).resolve().parent / "data" / "parity"  # the outputs of the published network
NO_VECTORS = ("README.md", "*_state_dict_shapes.json")  # what lies beside the vectors, and is compared with nothing

TOLERANCE = 1e-4  # of the standard deviation of the output
CHECK_MODULES = (
    "tests.parity_data",
    "tests.parity_vision",
    "tests.parity_llm",
    "tests.parity_release",
)  # each registers its checks when imported

Errors = dict[str, float]  # what was compared -> its error
Check = Callable[[Path], Errors]
CHECKS: dict[str, Check] = {}  # file name pattern -> check


class InputAbsent(Exception):
    """The input of a vector is no part of this project and is not here; the text says which and where to put it."""


def register(pattern: str) -> Callable[[Check], Check]:
    """Decorator: the check of all files whose name matches `pattern`."""

    def add(check: Check) -> Check:
        CHECKS[pattern] = check
        return check

    return add


def relative_error(actual: object, expected: object, spread: float | None = None) -> float:
    """Largest difference over the standard deviation of the output; infinite where shapes differ or NaN appears.

    `spread` is that deviation where `expected` is a sample or a summary of the output.
    """
    actual, expected = (np.asarray(values, dtype=np.float64) for values in (actual, expected))
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max() / (expected.std() if spread is None else spread))


def exact(actual: object, expected: object) -> float:
    """0 where all numbers are equal, else infinite."""
    return 0.0 if np.array_equal(np.asarray(actual), np.asarray(expected)) else float("inf")


def vector_files(folder: Path = VECTORS) -> list[Path]:
    """The vector files of a folder, by name."""
    files = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in files if not any(fnmatch(file.name, pattern) for pattern in NO_VECTORS))


def find_check(file: Path) -> Check | None:
    """The registered check of a file, None if its name is not known."""
    for module in CHECK_MODULES:
        import_module(module)
    return next((check for pattern, check in CHECKS.items() if fnmatch(file.name, pattern)), None)


def run(folder: Path, only: str = "*") -> bool:
    """Check the files of a folder; prints a line each; True where none failed and at least one was checked."""
    passed, checked = True, 0
    for file in vector_files(folder):
        if not fnmatch(file.name, only):
            continue
        check = find_check(file)
        if check is None:
            print(f"{file.name:28s} not checked: no check has this name", flush=True)
            continue
        start = perf_counter()
        try:
            with torch.no_grad():
                errors = check(file)
        except InputAbsent as absent:
            print(f"{file.name:28s} not checked: {absent}", flush=True)
            continue
        worst = max(errors, key=errors.__getitem__)
        failed = not errors[worst] <= TOLERANCE
        passed, checked = passed and not failed, checked + 1
        print(
            f"{file.name:28s} {'FAILED' if failed else 'ok':6s} largest error {errors[worst]:.2e} ({worst}; "
            f"{len(errors)} compared)  {perf_counter() - start:.1f} s",
            flush=True,
        )
    if not checked:
        print(f"{folder}: no vector file was checked", flush=True)
    return passed and checked > 0


def main() -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=VECTORS, help="default: tests/data/parity")
    parser.add_argument("--only", default="*", help="check only the files with such a name")
    options = parser.parse_args()
    return 0 if run(options.folder, options.only) else 1


if __name__ == "__main__":
    # Under `python -m` this file is the module __main__, but the checks register themselves in tests.parity.
    sys.exit(import_module("tests.parity").main())
