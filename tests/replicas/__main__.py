"""Write replicas: `python -m tests.replicas --out DIR [--sets abdomenct_1k ct_org]`, one folder each."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.replicas import REPLICAS


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.replicas", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder a replica")
    parser.add_argument("--sets", nargs="*", choices=tuple(REPLICAS), default=tuple(REPLICAS), help="some of them")
    options = parser.parse_args()
    for name in options.sets:
        folder = options.out / name
        folder.mkdir(parents=True)
        truth = REPLICAS[name](folder)
        print(f"{folder}: {len(truth.cases)} cases")


if __name__ == "__main__":
    main()
