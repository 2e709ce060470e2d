"""The command; see tests/campaign/__init__.py."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from tests.campaign.commands import damaged_runs
from tests.campaign.interruptions import failing_writes, full_disks, killed_runs
from tests.campaign.memory import large_work
from tests.campaign.ranks import killed_ranks
from tests.campaign.readers import damaged_files
from tests.campaign.verdicts import Verdict, table

PARTS: dict[str, Callable[[int, int], Iterator[Verdict]]] = {
    "readers": damaged_files,
    "commands": damaged_runs,
    "kills": lambda count, seed: chain(killed_runs(count, seed), killed_ranks(count // 5, seed)),
    "disk": full_disks,
    "writes": failing_writes,
    "memory": large_work,
}
COUNTS = {"readers": 3400, "commands": 200, "kills": 50, "disk": 50, "writes": 30, "memory": 1000}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where there was a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description="Faults against readers and commands."
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="may be given several times; without it, all")
    parser.add_argument("--count", type=int, help=f"inputs of a part; {COUNTS} where it is not given")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    verdicts: list[Verdict] = []
    begun = time.monotonic()
    for part in given.part or PARTS:
        for verdict in PARTS[part](given.count or COUNTS[part], given.seed):
            verdicts.append(verdict)
            if verdict.is_fault:
                print(f"{part}: {verdict.line()}", flush=True)
    print(f"\n{table(verdicts)}\n\nseed {given.seed}, {time.monotonic() - begun:.0f} s")
    return 1 if any(verdict.is_fault for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
