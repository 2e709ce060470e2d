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

from collections.abc import Mapping, Sequence
from functools import lru_cache
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
    while size > 1 and (found := _exchange(work, groups, sums)):
        heavy, light, given, taken = found
        groups[heavy] = sorted([*(place for place in groups[heavy] if place != given), taken])
        groups[light] = sorted([*(place for place in groups[light] if place != taken), given])
        sums[heavy] -= work[given] - work[taken]
        sums[light] += work[given] - work[taken]
    return groups


def _exchange(
    work: Sequence[int], groups: Sequence[Sequence[int]], sums: Sequence[int]
) -> tuple[int, int, int, int] | None:
    """(heavy group, light group, place in the first, place in the second) of an exchange that levels the two.

    The heaviest group is tried first, with the lightest; of their exchanges that which levels most.  None: there is no
    exchange left that levels any two.
    """
    order = sorted(range(len(groups)), key=lambda group: (sums[group], group))
    for heavy in reversed(order):
        for light in order:
            apart = sums[heavy] - sums[light]
            if apart < 2:
                break
            # of places with the same work the first stands for all
            givers = {work[place]: place for place in reversed(groups[heavy])}
            takers = {work[place]: place for place in reversed(groups[light])}
            levelling = [
                (abs(apart - 2 * (more - less)), given, taken)
                for more, given in givers.items()
                for less, taken in takers.items()
                if 0 < more - less < apart
            ]
            if levelling:
                _, given, taken = min(levelling)
                return heavy, light, given, taken
    return None


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
