"""python -m benchmarks.phantom_transfer: see `benchmarks.phantom_transfer.command`."""

import sys

from benchmarks.phantom_transfer.command import main

if __name__ == "__main__":
    sys.exit(main())
