"""python -m evaluation.learning: see `evaluation.learning.table`."""

import sys

from evaluation.learning.table import main

if __name__ == "__main__":
    sys.exit(main())
