"""Look at random cases of a prepared data set: one page of overlays, with what is odd named by rule.

python -m evaluation.audit --prepared data/prepared --data_set ct_org --count 12
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.commands import told
from datasets.errors import InputError
from evaluation.audit.cases import prepared_manifests, prepared_sets, random_cases
from evaluation.audit.page import describe_case, write_page

ALL = "all"


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, help="folder that python -m datasets.prepare wrote")
    parser.add_argument("--data_set", required=True, help="its name, as prepare knows it, or all that were prepared")
    parser.add_argument("--count", type=int, default=12, help="cases that are drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other cases")
    parser.add_argument("--output", type=Path, help="default: audit.html in the data set's prepared folder")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise InputError(f"--count {options.count}: give the number of cases, at least 1")
    names = prepared_sets(options.prepared) if options.data_set == ALL else [options.data_set]
    if options.output and len(names) > 1:
        raise InputError("--output: each of several data sets has a page of its own; leave it out")
    for name in names:
        _audit(name, options)
    return 0


def _audit(data_set: str, options: argparse.Namespace) -> None:
    """Write the page of one data set, and print what is odd."""
    output = options.output or options.prepared / data_set / "audit.html"
    cases = random_cases(prepared_manifests(options.prepared, data_set), options.count, options.seed)
    described = [describe_case(case) for case in tqdm(cases, desc=f"reading {data_set}")]
    write_page(data_set, described, output, options.seed)
    for case in described:
        for oddity in case["oddities"]:
            print(f"{case['image']}: {oddity.rule}: {oddity.text}")
    odd = sum(bool(case["oddities"]) for case in described)
    print(f"wrote {output}: {len(described)} cases, {odd} with something odd")


if __name__ == "__main__":
    sys.exit(main())
