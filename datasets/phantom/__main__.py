"""python -m datasets.phantom [--style chest|people]: see `datasets.phantom.dataset` and `.people.dataset`.

`--help` shows the options of the style that is named.
"""

import argparse
import sys

from datasets.phantom.dataset import main as write_chests
from datasets.phantom.people.dataset import main as write_people

STYLES = {"chest": write_chests, "people": write_people}


def main() -> int:
    """Hand the other options to the style's own command line."""
    parser = argparse.ArgumentParser(prog="python -m datasets.phantom", add_help=False)
    parser.add_argument("--style", choices=list(STYLES), default="chest")
    chosen, rest = parser.parse_known_args()
    return STYLES[chosen.style](rest)


if __name__ == "__main__":
    sys.exit(main())
