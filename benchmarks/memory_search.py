"""The largest size that fits into memory, found with few trials where memory grows about evenly with the size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


class DoesNotFit(Exception):
    """A size for which the memory there is was not enough."""


@dataclass(frozen=True)
class Largest:
    """For a limit, the largest size that fits, 0 for none; exact is False where a larger one may fit, not tried."""

    limit: float
    size: int
    exact: bool


def largest_within(
    peak_of: Callable[[int], float],
    limits: Sequence[float],
    most: int,
    go_on: Callable[[], bool] = lambda: True,
    known: Mapping[int, float] | None = None,
) -> tuple[list[Largest], dict[int, float]]:
    """The largest size of at most `most` whose peak is within each limit, and the peaks of all sizes that were tried.

    peak_of: the peak of a size of 1 or more, in the unit of the limits; raises DoesNotFit.  It is asked once a size.
    go_on: asked before each trial; once it is False, what is known is given.  known: peaks of an earlier search.
    """
    peaks = dict(known or {})

    def bounds(limit: float) -> tuple[int, int | None]:
        """The largest size that is known to fit, and the smallest that is known not to."""
        low = max((size for size, peak in peaks.items() if peak <= limit), default=0)
        return low, min((size for size, peak in peaks.items() if peak > limit), default=None)

    found = []
    for limit in sorted(limits):
        low, high = bounds(limit)
        while low < most and high != low + 1 and go_on():
            size = _next(peaks, limit, low, high, most)
            try:
                peaks[size] = peak_of(size)
            except DoesNotFit:
                peaks[size] = math.inf
            low, high = bounds(limit)
        found.append(Largest(limit, low, high == low + 1))
    return found, dict(sorted(peaks.items()))


def _next(peaks: dict[int, float], limit: float, low: int, high: int | None, most: int) -> int:
    """A size between the bounds, at which a line through what was measured meets the limit, as far as that is known."""
    known = sorted(size for size, peak in peaks.items() if math.isfinite(peak))
    if high is None and len(known) < 2:
        return min(2 * low or 1, most)
    guess = None
    if len(known) >= 2:
        first, second = (low, high) if low in known and high in known else known[-2:]
        slope = (peaks[second] - peaks[first]) / (second - first)
        if slope > 0:
            guess = first + math.floor((limit - peaks[first]) / slope)
    if high is None:
        return max(low + 1, min(most, 4 * low if guess is None else min(guess, 8 * low)))
    if guess is None:
        guess = (low + high) // 2
    return max(low + 1, min(guess, high - 1))
