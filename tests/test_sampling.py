"""The mixture sampler against counting."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2

from datasets.errors import InputError
from datasets.sampling import MixtureSampler, SharedVolumeSampler, evenly

SIZES = {"report": 40, "seg": 7, "vqa": 100}
WEIGHTS = {"report": 1.0, "seg": 0.5, "vqa": 2.5}


def stream(sampler: MixtureSampler, steps: int, accumulation_steps: int = 1) -> list:
    return [r for step in range(steps) for micro in range(accumulation_steps) for r in sampler.references(step, micro)]


@pytest.mark.parametrize("mode", ["one_task", "mixed"])
def test_tasks_come_by_weight(mode):
    sampler = MixtureSampler(SIZES, WEIGHTS, mode=mode, seed=5)
    draws = 20_000
    counts = Counter(reference.task for reference in stream(sampler, draws))
    expected = {task: draws * weight / 4.0 for task, weight in WEIGHTS.items()}
    statistic = sum((counts[task] - expected[task]) ** 2 / expected[task] for task in WEIGHTS)
    assert statistic < chi2.ppf(0.999, df=2)
    # neighbouring draws are independent: how often a task follows itself
    tasks = [reference.task for reference in stream(sampler, draws)]
    repeats = np.mean([first == second for first, second in pairwise(tasks)])
    assert repeats == pytest.approx(sum((weight / 4) ** 2 for weight in WEIGHTS.values()), abs=0.015)


@pytest.mark.parametrize("mode", ["one_task", "mixed"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_epoch_covers_every_sample_once_over_all_ranks(mode, world_size):
    samplers = [
        MixtureSampler(SIZES, WEIGHTS, mode=mode, micro_batch=2, seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    drawn = {task: [] for task in SIZES}
    for step in range(400):
        for sampler in samplers:
            for reference in sampler.references(step):
                drawn[reference.task].append(reference.index)
    for task, size in SIZES.items():
        epochs = [drawn[task][start : start + size] for start in range(0, len(drawn[task]) - size + 1, size)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs), task
        assert epochs[0] != epochs[1]  # another order
        assert epochs[0] != list(range(size))


def test_all_ranks_have_the_same_task_at_a_micro_step():
    samplers = [MixtureSampler(SIZES, WEIGHTS, accumulation_steps=2, rank=rank, world_size=4) for rank in range(4)]
    drawn = Counter()
    for step in range(200):
        for micro_step in range(2):
            tasks = [r.task for sampler in samplers for r in sampler.references(step, micro_step)]
            assert len(tasks) == 4 and len(set(tasks)) == 1
            drawn[tasks[0]] += 1
    assert drawn.keys() == SIZES.keys()


@pytest.mark.parametrize("mode", ["one_task", "mixed"])
def test_any_step_can_be_asked_for_at_once(mode):
    """A resumed run starts in the middle, and across the borders of the internal blocks."""
    options = {"mode": mode, "micro_batch": 3, "accumulation_steps": 2, "seed": 9, "rank": 1, "world_size": 2}
    walked = MixtureSampler(SIZES, WEIGHTS, **options)
    history = [walked.references(step, micro) for step in range(2500) for micro in range(2)]
    for step in (2400, 2047, 2048, 3, 683, 0):
        jumped = MixtureSampler(SIZES, WEIGHTS, **options)
        assert jumped.references(step, 1) == history[2 * step + 1]
        assert jumped.references(step, 0) == history[2 * step]  # backwards too


def test_ranks_deal_out_what_one_process_would_accumulate():
    """Two ranks see in a step what one process sees in two micro-steps, so that results can be compared."""
    alone = MixtureSampler({"vqa": 50}, micro_batch=2, accumulation_steps=2)
    ranks = [MixtureSampler({"vqa": 50}, micro_batch=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(60):
        assert [alone.references(step, rank) for rank in range(2)] == [sampler.references(step) for sampler in ranks]


def test_micro_batch_by_task():
    sampler = MixtureSampler({"seg": 10, "vqa": 10}, {"seg": 1, "vqa": 1}, micro_batch={"seg": 1, "vqa": 3})
    lengths = {(references[0].task, len(references)) for references in map(sampler.references, range(100))}
    assert lengths == {("seg", 1), ("vqa", 3)}


def test_seeds_differ_between_samples_and_epochs():
    references = stream(MixtureSampler({"vqa": 20}, seed=3), 200)
    assert len({reference.seed for reference in references}) == 200
    assert all(0 <= reference.seed < 2**63 for reference in references)
    assert stream(MixtureSampler({"vqa": 20}, seed=4), 200) != references


def test_default_weights_are_by_size_and_zero_leaves_out():
    assert MixtureSampler(SIZES).shares == pytest.approx([40 / 147, 7 / 147, 100 / 147])
    sampler = MixtureSampler({"a": 5, "b": 0}, {"a": 1, "b": 0})
    assert {reference.task for reference in stream(sampler, 20)} == {"a"}


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ({"a": 5, "b": 0}, {"a": 1, "b": 1}, "no samples for b"),
        ({"a": 5}, {"a": 1, "c": 1}, "different tasks: c"),
        ({"a": 5, "b": 5}, {"a": 1, "b": -1}, "weight of b"),
        ({"a": 5}, {"a": float("nan")}, "weight of a"),
        ({"a": 5}, {"a": 0}, "no task"),
        ({}, None, "no task"),
    ],
)
def test_refusals(sizes, weights, message):
    with pytest.raises(InputError, match=message):
        MixtureSampler(sizes, weights)


ABOUT = {"report": list("aabbc"), "seg": list("abcc"), "vqa": ["", "a", "a", "b", "", "c", "c", "c"]}


def shared(questions: int, weights: dict[str, float] | None = None, **options) -> SharedVolumeSampler:
    sizes = {task: len(about) for task, about in ABOUT.items()}
    return SharedVolumeSampler(MixtureSampler(sizes, mode="mixed", **options), ABOUT, questions, weights)


def test_each_sample_brings_others_about_its_volume():
    plain, sampler = MixtureSampler({t: len(a) for t, a in ABOUT.items()}, mode="mixed", seed=3), shared(3, seed=3)
    for step in range(200):
        (first,), references = plain.references(step), sampler.references(step)
        about = [ABOUT[reference.task][reference.index] for reference in references]
        assert references[0] == first and len(set(about)) == 1
        assert len({(r.task, r.index) for r in references}) == len(references) == (3 if about[0] else 1)
        assert references == sampler.references(step)
    everything = {(task, index) for task, about in ABOUT.items() for index, key in enumerate(about) if key == "a"}
    all_of_a = next(r for r in map(shared(99).references, range(99)) if (r[0].task, r[0].index) in everything)
    assert {(r.task, r.index) for r in all_of_a} == everything


def test_further_questions_come_by_the_weights_of_their_tasks():
    sampler = shared(2, {"report": 1.0, "seg": 4.0, "vqa": 0.0}, seed=1)
    pairs = [sampler.references(step) for step in range(8000)]
    others = Counter(pair[1].task for pair in pairs if (pair[0].task, pair[0].index) == ("vqa", 1))
    # beside it, two reports of five ask about "a", of weight 1/5 each, and one of four masks, of weight 4/4
    assert others["vqa"] == 0 and others["seg"] / others.total() == pytest.approx(5 / 7, abs=0.05)


def test_the_number_of_questions_a_volume_is_part_of_the_sequence():
    assert shared(2).fingerprint() != shared(3).fingerprint() != shared(3).sampler.fingerprint()
    with pytest.raises(InputError, match="1 or more"):
        shared(0)


@pytest.mark.parametrize(("count", "limit"), [(0, 3), (1, 1), (5, 1), (5, 5), (5, 9), (7, 3), (203, 100), (1000, 999)])
def test_places_are_evenly_spread(count, limit):
    places = evenly(count, limit)
    assert len(places) == len(set(places)) == min(count, limit)
    assert places[:1] == [0][:count] and (limit == 1 or places[-1:] == [count - 1][:count])
    steps = {later - place for place, later in pairwise(places)}
    assert not steps or max(steps) - min(steps) <= 1
