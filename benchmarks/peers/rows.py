"""One line of a comparison, and what its figures mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Figure(NamedTuple):
    """heading: of the column.  digits: after the point.  ratio: whether it is also given over the first row's."""

    heading: str
    digits: int
    ratio: bool = False


FIGURES: dict[str, Figure] = {  # in the order of the columns; a table has those that its rows have
    "seconds": Figure("s", 1, ratio=True),
    "forward": Figure("forward s", 2, ratio=True),
    "both": Figure("forward + backward s", 2, ratio=True),
    "first_token": Figure("s to the first token", 3, ratio=True),
    "tokens_a_second": Figure("tokens a second", 1, ratio=True),
    "peak_gib": Figure("peak GiB", 1),
    "peak_both": Figure("peak GiB with backward", 1),
    "parameters": Figure("million parameters", 1),
    "multiply_adds": Figure("10⁹ multiply-adds", 0),
}


@dataclass
class PeerRow:
    """A contestant's figures by their names in `FIGURES`.

    group: what it is compared within; ratios are to the group's first row.  ours: whether it is this project's.
    note: what the figures leave out or scale, in words.
    """

    group: str
    name: str
    ours: bool
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
