"""python -m benchmarks.data_efficiency: see `benchmarks.data_efficiency.command`."""

import sys

from benchmarks.data_efficiency.command import main

if __name__ == "__main__":
    sys.exit(main())
