"""`python -m datasets.prepare`: see `datasets.prepare.command`."""

import sys

from datasets.prepare.command import main

if __name__ == "__main__":
    sys.exit(main())
