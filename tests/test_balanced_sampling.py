"""Batches that are shared out by work, against every way of sharing them out, and against counting."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import numpy as np
import pytest

from datasets.balanced_sampling import BalancedSampler, exchanged, shared_out
from datasets.sampling import MixtureSampler, SampleReference, SharedVolumeSampler
from training.batches import batches

SIZES = {"report": 40, "seg": 7, "vqa": 100}
# volumes of 1 to 6 patches, most of them large as chest CTs are, and texts without one
SHARES = [0.05, 0.05, 0.10, 0.15, 0.20, 0.20, 0.25]
GENERATOR = np.random.default_rng(8)
PATCHES = {task: GENERATOR.choice(7, size, p=SHARES).tolist() for task, size in SIZES.items()}


def plain(ranks: int, micro_batch: int = 1, batch: int = 24, seed: int = 3, **options) -> list[MixtureSampler]:
    steps = batch // micro_batch // ranks
    options |= {"mode": "mixed", "micro_batch": micro_batch, "accumulation_steps": steps, "seed": seed}
    return [MixtureSampler(SIZES, rank=rank, world_size=ranks, **options) for rank in range(ranks)]


def balanced(ranks: int, micro_batch: int = 1, work=PATCHES, **options) -> list[BalancedSampler]:
    return [
        BalancedSampler(plain(1, micro_batch, **options)[0], work, rank=rank, world_size=ranks) for rank in range(ranks)
    ]


def step_of(samplers, step: int, micro_steps: int) -> list[list[list[SampleReference]]]:
    """The samples of a step by micro-step and rank."""
    return [[sampler.references(step, micro) for sampler in samplers] for micro in range(micro_steps)]


def loads_of(step: list[list[list[SampleReference]]]) -> np.ndarray:
    """(micro-steps, ranks): patches of each micro-batch."""
    return np.array([[sum(PATCHES[r.task][r.index] for r in own) for own in micro_step] for micro_step in step])


def groupings(places: Sequence[int], size: int) -> Iterator[list[tuple[int, ...]]]:
    """Every way to part places into groups of a size."""
    if not places:
        yield []
        return
    for others in combinations(places[1:], size - 1):
        group = (places[0], *others)
        for rest in groupings([place for place in places if place not in group], size):
            yield [group, *rest]


@pytest.mark.parametrize(("ranks", "micro_steps"), [(2, 2), (2, 3), (3, 2)])
def test_no_other_order_has_ranks_wait_less(ranks: int, micro_steps: int) -> None:
    generator = np.random.default_rng(ranks * 10 + micro_steps)
    for _ in range(20):
        loads = generator.integers(0, 7, ranks * micro_steps)
        ways = (loads[list(order)].reshape(micro_steps, ranks) for order in permutations(range(len(loads))))
        best = min((way.max(1).sum(), way.sum(0).max()) for way in ways)
        numbers = shared_out(loads.tolist(), ranks)
        assert sorted(np.ravel(numbers)) == list(range(len(loads)))
        found = loads[np.array(numbers)]
        assert (found.max(1).sum(), found.sum(0).max()) == best


@pytest.mark.parametrize(("count", "size"), [(6, 2), (8, 2), (6, 3), (9, 3), (8, 4)])
def test_no_other_micro_batches_are_lighter(count: int, size: int) -> None:
    generator = np.random.default_rng(count * 10 + size)
    for _ in range(20):
        work = generator.integers(0, 7, count).tolist()
        found = exchanged(work, size)
        assert sorted(place for group in found for place in group) == list(range(count))
        assert all(len(group) == size and group == sorted(group) for group in found)
        lightest = min(max(sum(work[p] for p in group) for group in way) for way in groupings(range(count), size))
        assert max(sum(work[place] for place in group) for group in found) == lightest


def exchanges(work: Sequence[int], groups: Sequence[Sequence[int]]) -> Iterator[tuple]:
    """All that make the sums of two groups less different: the heavy and the light group with their sums, how far
    apart the sums are then, and the two places."""
    numbered = [(sum(work[place] for place in group), number) for number, group in enumerate(groups)]
    for heavy, light in permutations(numbered, 2):
        for given in groups[heavy[1]]:
            for taken in groups[light[1]]:
                apart = abs(heavy[0] - light[0] - 2 * (work[given] - work[taken]))
                if work[given] > work[taken] and apart < heavy[0] - light[0]:
                    yield heavy, light, apart, given, taken


@pytest.mark.parametrize("largest", [2, 6, 40])
@pytest.mark.parametrize(("count", "size"), [(12, 2), (20, 2), (15, 3), (16, 4), (5, 1)])
def test_the_heaviest_is_levelled_with_the_lightest_until_nothing_is_left(count: int, size: int, largest: int) -> None:
    generator = np.random.default_rng(count * 10 + size)
    for _ in range(10):
        work = generator.integers(0, largest + 1, count).tolist()
        groups = [list(range(first, first + size)) for first in range(0, count, size)]
        while found := list(exchanges(work, groups)):
            (_, heavy), (_, light), _, given, taken = min(found, key=lambda one: ([-n for n in one[0]], one[1:]))
            groups[heavy] = sorted({*groups[heavy], taken} - {given})
            groups[light] = sorted({*groups[light], given} - {taken})
        assert exchanged(work, size) == groups


def test_thousands_of_micro_batches_are_levelled_in_seconds() -> None:
    """Trying pairs one by one takes far longer; that nothing is left is looked up for all pairs."""
    work = np.random.default_rng(5).choice(7, 4000, p=SHARES)
    begun = time.process_time()
    groups = work[np.array(exchanged(work.tolist(), 2))]
    assert time.process_time() - begun < 3
    sums = groups.sum(1)
    apart = sums[:, None] - sums
    for given in groups.T:
        for taken in groups.T:
            less = given[:, None] - taken
            assert not ((less > 0) & (less < apart)).any()


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_a_step_has_the_samples_that_it_had(ranks: int, micro_batch: int) -> None:
    micro_steps = 24 // ranks // micro_batch
    for step in (0, 1, 7, 600):
        before = step_of(plain(ranks, micro_batch), step, micro_steps)
        after = step_of(balanced(ranks, micro_batch), step, micro_steps)
        assert all(len(own) == micro_batch for micro_step in after for own in micro_step)
        counts = [Counter(r for micro in found for own in micro for r in own) for found in (before, after)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_other_ranks_go_on_with_the_same_micro_batches(micro_batch: int) -> None:
    """By number, from which dropout follows too; a micro-batch of one sample keeps that of its place."""
    count = 24 // micro_batch

    def numbered(ranks: int, step: int) -> dict[int, list[SampleReference]]:
        samplers = balanced(ranks, micro_batch)
        return {s.number(step, m): s.references(step, m) for m in range(count // ranks) for s in samplers}

    for step in (0, 7, 600):
        expected = numbered(1, step)
        assert sorted(expected) == list(range(step * count, (step + 1) * count))
        assert all(numbered(ranks, step) == expected for ranks in (2, 3, 6))
        if micro_batch == 1:
            (alone,) = plain(1)
            assert expected == {alone.number(step, micro): alone.references(step, micro) for micro in range(count)}


def test_a_run_that_goes_on_has_the_same_samples_as_one_that_was_not_interrupted() -> None:
    walked = balanced(3, 2)
    history = [step_of(walked, step, 4) for step in range(40)]
    for step in (39, 3, 20, 0):  # by samplers made anew, in any order
        assert step_of(balanced(3, 2), step, 4) == history[step]
    assert walked[0].fingerprint() == balanced(1, 2)[0].fingerprint() == plain(3, 2)[0].fingerprint()


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_where_all_have_as_much_to_do_nothing_moves(micro_batch: int) -> None:
    alike = {task: [4] * size for task, size in SIZES.items()}
    for step in range(10):
        expected = step_of(plain(3, micro_batch), step, 8 // micro_batch)
        assert step_of(balanced(3, micro_batch, alike), step, 8 // micro_batch) == expected


@pytest.mark.parametrize(("micro_batch", "most"), [(1, 0.8), (2, 0.8), (8, 0.87)])
def test_the_largest_load_falls_on_a_realistic_mix(micro_batch: int, most: float) -> None:
    """A published batch of 64 on 8 ranks: what ranks wait for within micro-steps, and at the end of a step."""
    micro_steps = 8 // micro_batch
    loads = {
        name: [loads_of(step_of(make(8, micro_batch, batch=64), step, micro_steps)) for step in range(12)]
        for name, make in (("plain", plain), ("balanced", balanced))
    }
    ideal = sum(step.sum() for step in loads["plain"]) / 8
    waits, totals = (
        {name: sum(of(step) for step in steps) / ideal for name, steps in loads.items()}
        for of in (lambda step: step.max(1).sum(), lambda step: step.sum(0).max())
    )
    assert waits["balanced"] < most * waits["plain"] and totals["balanced"] < 0.9 * totals["plain"]
    assert waits["balanced"] < 1.12 and totals["balanced"] < 1.03
    for before, after in zip(loads["plain"], loads["balanced"], strict=True):  # in no step has a rank more to do
        assert after.max(1).sum() <= before.max(1).sum() and after.sum(0).max() <= before.sum(0).max()


def test_further_questions_stay_with_their_volume() -> None:
    about = {task: [f"{index % 5}" for index in range(size)] for task, size in SIZES.items()}
    (sampler,) = balanced(1, 2)
    shared = SharedVolumeSampler(sampler, about, questions=3)
    references = shared.references(4, 5)
    assert [references[0], references[3]] == sampler.references(4, 5) and len(references) == 6
    assert [len({about[r.task][r.index] for r in references[first : first + 3]}) for first in (0, 3)] == [1, 1]
    assert shared.number(4, 5) == sampler.number(4, 5)


def test_loaders_get_what_the_sampler_says_whatever_their_number() -> None:
    class Dataset:
        def __getitem__(self, reference: SampleReference) -> SampleReference:
            return reference

    sampler = balanced(3, 2)[1]
    expected = [sampler.references(step, micro) for step in range(2, 5) for micro in range(4)]
    for workers in (0, 2):
        options = {"first_step": 2, "last_step": 5, "accumulation_steps": 4, "workers": workers, "pin_memory": False}
        assert list(batches(Dataset(), balanced(3, 2)[1], list, **options)) == expected


def test_samplers_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide by 5 ranks"):
        BalancedSampler(plain(1)[0], PATCHES, world_size=5)
    for sampler in (plain(2)[0], MixtureSampler(SIZES)):
        with pytest.raises(ValueError, match="for a single rank"):
            BalancedSampler(sampler, PATCHES)
