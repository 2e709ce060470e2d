"""Look at manifests of either stage before a run, and list every fault of every file.

    python -m datasets.manifest_check data/pretraining/*_train.json
    python -m datasets.manifest_check train.json --check_voxels

Rows are validated, the headers of all volumes and masks read, and masks compared with the grid of their volume.
--check_voxels also reads the masks: empty ones are counted, and values that no file holds are named.  The exit status
is 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest_check.check import ALL, check_manifests, print_reports
from datasets.manifest_check.needs import sources_of
from datasets.mixture import manifest_and_weight, with_mixture_files


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.manifest_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--check_voxels", action="store_true", help="read the masks too")
    parser.add_argument("--workers", type=int, default=8, help="threads that read files (default 8)")
    parser.add_argument("--most", type=int, default=50, help="most faults of a manifest that are listed (default 50)")
    options = parser.parse_args(arguments)
    for name, least in (("workers", 1), ("most", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give {least} or more")
    sources, faults = [], 0
    for path in (manifest_and_weight(item)[0] for item in with_mixture_files(options.manifests)):
        try:
            sources += sources_of(path)
        except InputError as error:
            print(f"fault: {error}")
            faults += 1
    reports = check_manifests(sources, options.workers, ALL if options.check_voxels else 0)
    print_reports(reports, most=options.most)
    faults += sum(len(report.faults) for report in reports)
    if faults:
        print(f"error: {faults} faults in {len(options.manifests)} manifests; each is named above", file=sys.stderr)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
