"""python -m datasets.phantom: see `datasets.phantom.dataset`."""

import sys

from datasets.phantom.dataset import main

if __name__ == "__main__":
    sys.exit(main())
