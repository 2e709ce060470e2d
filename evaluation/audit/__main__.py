"""Look at random cases of a prepared data set: one page of overlays, with what is odd named by rule.

python -m evaluation.audit --prepared data/prepared --data_set ct_org --count 12
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.errors import InputError
from evaluation.audit.cases import prepared_manifests, random_cases
from evaluation.audit.page import describe_case, write_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, help="folder that python -m datasets.prepare wrote")
    parser.add_argument("--data_set", required=True, help="name of the data set, as prepare knows it")
    parser.add_argument("--count", type=int, default=12, help="cases that are drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other cases")
    parser.add_argument("--output", type=Path, help="default: audit.html in the data set's prepared folder")
    options = parser.parse_args(arguments)
    output = options.output or options.prepared / options.data_set / "audit.html"
    try:
        if options.count < 1:
            raise InputError(f"--count {options.count}: give the number of cases, at least 1")
        cases = random_cases(prepared_manifests(options.prepared, options.data_set), options.count, options.seed)
        described = [describe_case(case) for case in tqdm(cases, desc=f"reading {options.data_set}")]
        write_page(options.data_set, described, output, options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for case in described:
        for oddity in case["oddities"]:
            print(f"{case['image']}: {oddity.rule}: {oddity.text}")
    odd = sum(bool(case["oddities"]) for case in described)
    print(f"wrote {output}: {len(described)} cases, {odd} with something odd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
