"""How the time is shared out among the parts: each gets its wish, as long as those behind it keep their least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A program that measures something.  wish: seconds it would like; least: seconds below which it is no use."""

    name: str
    module: str
    options: tuple[str, ...] = ()
    wish: float = 60.0
    least: float = 30.0


def granted(left: float, part: Part, behind: Sequence[Part]) -> float:
    """Seconds for `part` of the `left` ones: its wish, less what those behind it need; 0 where that is below its least.

    What a part does not use is there for those behind it.
    """
    seconds = min(part.wish, left - sum(other.least for other in behind))
    if seconds < part.least:  # those behind may have to go without: the parts are in the order of their weight
        seconds = min(part.least, left)
    return seconds if seconds >= part.least else 0.0
