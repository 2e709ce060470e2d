"""The samples of each step shared out so that ranks which wait for one another have about as much to do.

Which samples a step has is not touched: they are those of a `MixtureSampler`.  What is shared out is known before the
run begins (`datasets.patch_counts`), so every rank works out the same, whatever it has loaded so far.

First samples are exchanged between micro-batches, where these have several, until none can be brought nearer to
another.  What comes of it does not depend on the number of ranks, so that a run which goes on on others has the same
micro-batches.  Then the heaviest micro-batches, as many as there are ranks, become one micro-step, the next heaviest
another: no other way has ranks wait less for one another within micro-steps.  Within each, the rank that has had least
so far takes the heaviest, which also evens out the whole step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from datasets.sampling import MixtureSampler, SampleReference


class _Step(NamedTuple):
    """A step's micro-batches by number, and for each micro-step the number that each rank takes."""

    micro_batches: list[list[SampleReference]]
    numbers: list[list[int]]


class BalancedSampler:
    """Shares out what a sampler draws; a rank gets as many micro-batches as before, and these as many samples.

    sampler: in mode "mixed", as for a single rank that makes all micro-batches of a step.
    work: for each task, that of each of its samples, 0 or more, in any unit.

    Raises ValueError where the sampler is another, or where its micro-batches do not divide by the ranks.
    """

    def __init__(
        self, sampler: MixtureSampler, work: Mapping[str, Sequence[int]], *, rank: int = 0, world_size: int = 1
    ) -> None:
        if sampler.mode != "mixed" or sampler.world_size != 1:
            raise ValueError("micro-batches are shared out of a sampler of mixed tasks for a single rank")
        if sampler.accumulation_steps % world_size:
            raise ValueError(f"{sampler.accumulation_steps} micro-batches do not divide by {world_size} ranks")
        self.sampler, self.work, self.rank, self.world_size = sampler, work, rank, world_size
        self._step = lru_cache(maxsize=8)(self._shared_out)

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        """This rank's samples of a micro-step; steps and micro-steps count from 0."""
        return self._step(step).micro_batches[self._step(step).numbers[micro_step][self.rank]]

    def number(self, step: int, micro_step: int = 0) -> int:
        """The micro-batch's number over all steps and ranks, the same on whichever rank it is made."""
        return step * self.sampler.accumulation_steps + self._step(step).numbers[micro_step][self.rank]

    def fingerprint(self) -> dict[str, Any]:
        """That of the sampler: the samples of a step are the same, however they are shared out."""
        return self.sampler.fingerprint()

    def _shared_out(self, step: int) -> _Step:
        drawn = [self.sampler.references(step, number) for number in range(self.sampler.accumulation_steps)]
        samples = [reference for micro_batch in drawn for reference in micro_batch]
        work = [self.work[reference.task][reference.index] for reference in samples]
        places = exchanged(work, len(drawn[0]))
        loads = [sum(work[place] for place in own) for own in places]
        micro_batches = [[samples[place] for place in own] for own in places]
        return _Step(micro_batches, shared_out(loads, self.world_size))


def exchanged(work: Sequence[int], size: int) -> list[list[int]]:
    """Places in `work` of the samples of each micro-batch of `size`, ascending, with sums that are about equal.

    Two samples change places while that makes the sums of their micro-batches less different; where nothing can be
    gained, all stay where they are.
    """
    groups = [list(range(first, first + size)) for first in range(0, len(work), size)]
    sums = [sum(work[place] for place in group) for group in groups]
    holders = _Holders(work)
    for number, group in enumerate(groups):
        holders.add(number, group, sums[number])
    while size > 1 and (found := _exchange(work, groups, sums, holders)):
        heavy, light, given, taken = found
        for number, gone, come in ((heavy, given, taken), (light, taken, given)):
            holders.remove(number, groups[number], sums[number])
            groups[number] = sorted([*(place for place in groups[number] if place != gone), come])
            sums[number] += work[come] - work[gone]
            holders.add(number, groups[number], sums[number])
    return groups


class _Holders:
    """For each amount of work, the sums and numbers of the groups with a sample of it, the lightest first."""

    def __init__(self, work: Sequence[int]) -> None:
        self._work, self.amounts = work, sorted(set(work))
        self._groups: dict[int, list[tuple[int, int]]] = {amount: [] for amount in self.amounts}

    def add(self, number: int, group: Sequence[int], total: int) -> None:
        for amount in {self._work[place] for place in group}:
            insort(self._groups[amount], (total, number))

    def remove(self, number: int, group: Sequence[int], total: int) -> None:
        for amount in {self._work[place] for place in group}:
            groups = self._groups[amount]
            del groups[bisect_left(groups, (total, number))]

    def lightest(self, amount: int) -> tuple[int, int]:
        return self._groups[amount][0]

    def heaviest(self, amount: int) -> tuple[int, int]:
        return self._groups[amount][-1]


def _exchange(
    work: Sequence[int], groups: Sequence[Sequence[int]], sums: Sequence[int], holders: _Holders
) -> tuple[int, int, int, int] | None:
    """(heavy group, light group, place in the first, place in the second) of an exchange that levels the two.

    Of all groups that can be levelled with a lighter one, the heaviest, and the lightest of those that it can be
    levelled with; of their exchanges that which levels most.  None: there is no exchange left that levels any two.

    An exchange of `more` for `less` levels two groups where what stays in the heavy one weighs more than what stays in
    the light one.  So of the groups with a sample of an amount one end of their order tells for all.
    """
    heaviest = (-1, -1)
    staying: float = inf  # the least that stays in any group without a sample of a smaller amount
    for more in holders.amounts:
        total, number = holders.heaviest(more)
        if total - more > staying:
            heaviest = max(heaviest, (total, number))
        staying = min(staying, holders.lightest(more)[0] - more)
    apart_from, heavy = heaviest
    if heavy < 0:
        return None
    # of places with the same work the first stands for all
    givers = {work[place]: place for place in reversed(groups[heavy])}
    _, light = min(
        holders.lightest(less)
        for more in givers
        for less in holders.amounts[: bisect_left(holders.amounts, more)]
        if holders.lightest(less)[0] - less < apart_from - more
    )
    apart = apart_from - sums[light]
    takers = {work[place]: place for place in reversed(groups[light])}
    _, given, taken = min(
        (abs(apart - 2 * (more - less)), given, taken)
        for more, given in givers.items()
        for less, taken in takers.items()
        if 0 < more - less < apart
    )
    return heavy, light, given, taken


def shared_out(loads: Sequence[int], ranks: int) -> list[list[int]]:
    """For each micro-step, the number of the micro-batch of each rank; `loads` are those of the micro-batches.

    The sum over micro-steps of the heaviest load in each is the least that there is.
    """
    order = sorted(range(len(loads)), key=lambda number: (-loads[number], number))
    micro_steps = [order[first : first + ranks] for first in range(0, len(order), ranks)]
    numbers = [[0] * ranks for _ in micro_steps]
    totals = [0] * ranks
    # where ranks differ most is settled first, so that what differs less can make up for it
    for place in sorted(range(len(micro_steps)), key=lambda step: (_spread(loads, micro_steps[step]), step)):
        by_total = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, number in zip(by_total, micro_steps[place], strict=True):
            numbers[place][rank] = number
            totals[rank] += loads[number]
    return numbers


def _spread(loads: Sequence[int], micro_step: Sequence[int]) -> int:
    """Largest first: how far the lightest lies below the heaviest, both at the ends of a descending order."""
    return loads[micro_step[-1]] - loads[micro_step[0]]
