"""Which samples each rank trains on at each step.

The answer depends on the seed, the step and the rank alone, and not on earlier calls.  So a run that is resumed at step
5,000 sees the same samples as one that was never interrupted.  Micro-batches are numbered over all steps and ranks, and
what is in one follows from its number: a run whose steps have as many micro-batches on other ranks sees the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np

from datasets.errors import InputError

_BLOCK = 4096  # draws of a task made at once; another number would give another sequence


@dataclass(frozen=True)
class SampleReference:
    """One sample of one step: the task, the sample's index in the task's data, and a seed for its augmentation."""

    task: str
    index: int
    seed: int


def instead_of(reference: SampleReference, size: int) -> SampleReference:
    """What is taken where a sample cannot be read: the next of its task, which has `size` of them."""
    return replace(reference, index=(reference.index + 1) % size)


def evenly(count: int, limit: int) -> list[int]:
    """Places of at most `limit` of `count` things: the first, the last, and others evenly between them."""
    return np.linspace(0, count - 1, min(count, limit)).astype(int).tolist()


def portions(count: int, first: int) -> Iterator[list[int]]:
    """Places of `count` things: `first` of them, evenly spread, then the others in doubling numbers."""
    spread = evenly(count, first)
    yield spread
    taken = set(spread)
    rest = [place for place in range(count) if place not in taken]
    size = max(first, 1)
    while rest:
        yield rest[:size]
        rest, size = rest[size:], size * 2


class Sampler(Protocol):
    """Which samples this rank trains on; steps and micro-steps count from 0."""

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        """The samples of a micro-step, a pure function of its arguments."""

    def number(self, step: int, micro_step: int = 0) -> int:
        """The micro-batch's number over all steps and ranks, by which its random numbers go."""

    def fingerprint(self) -> dict[str, Any]:
        """What the references depend on beside step and rank, as JSON types."""


class SharedVolumeSampler:
    """Adds further questions about the same volumes to each sample of a sampler, so that a volume is encoded once.

    sampler: draws the first question about each volume.
    volumes: for each task, the image paths of each of its samples; to a sample without images nothing is added.
    questions: about each volume, the first one included; fewer where the data has fewer.
    weights: of the tasks.  A further question is drawn with a probability of its task's weight over its task's size,
        and no question twice; None draws all questions alike.

    Raises InputError for less than one question.
    """

    def __init__(
        self,
        sampler: Sampler,
        volumes: Mapping[str, Sequence[Hashable]],
        questions: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if questions < 1:
            raise InputError(f"{questions} questions a volume: give 1 or more")
        self.sampler, self.volumes, self.questions = sampler, volumes, questions
        self._about: dict[Hashable, list[tuple[str, int, float]]] = {}
        for task, keys in volumes.items():
            weight = weights[task] / len(keys) if weights and keys else 1.0
            for index, key in enumerate(keys):
                if key and weight:
                    self._about.setdefault(key, []).append((task, index, weight))

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        """The sampler's references of a micro-step, each followed by those of the further questions."""
        return [one for first in self.sampler.references(step, micro_step) for one in (first, *self._others(first))]

    def number(self, step: int, micro_step: int = 0) -> int:
        """That of the sampler."""
        return self.sampler.number(step, micro_step)

    def fingerprint(self) -> dict[str, Any]:
        """That of the sampler, and how many questions share a volume."""
        return {**self.sampler.fingerprint(), "questions_per_volume": self.questions}

    def _others(self, first: SampleReference) -> list[SampleReference]:
        about = self._about.get(self.volumes[first.task][first.index], [])
        others = [entry for entry in about if entry[:2] != (first.task, first.index)]
        count = min(self.questions - 1, len(others))
        if not count:
            return []
        generator = np.random.default_rng([first.seed, 3])
        shares = np.array([weight for *_, weight in others])
        chosen = generator.choice(len(others), count, replace=False, p=shares / shares.sum())
        seeds = generator.integers(2**62, size=count)
        return [SampleReference(others[i][0], others[i][1], int(seed)) for i, seed in zip(chosen, seeds, strict=True)]


class MixtureSampler:
    """Draws samples of several tasks by the tasks' weights.

    In mode "one_task" a task is drawn for the micro-batches of a draw, which are made at once on as many ranks, or
    one after the other; in mode "mixed" for each sample.
    The samples of a task come in random order.  In each pass over its data (epoch) every sample is seen once, by one of
    the ranks; then a new order is drawn.  The last batch of an epoch is filled from the next epoch.

    sizes: number of samples of each task.
    weights: of each task, in any unit; None draws by size, and 0 leaves a task out.
    micro_batch: samples of a rank in a micro-step; in mode "one_task" it may differ by task.
    accumulation_steps: micro-steps in a step.
    draw_ranks: micro-batches in a draw; None: as many as there are ranks, so that each micro-step is a draw.

    Raises InputError for a task without samples, a negative weight, or weights and sizes that name different tasks, and
    where ranks would have different tasks at a time.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        weights: dict[str, float] | None = None,
        *,
        mode: Literal["one_task", "mixed"] = "one_task",
        micro_batch: int | dict[str, int] = 1,
        accumulation_steps: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        draw_ranks: int | None = None,
    ) -> None:
        weights = {task: float(size) for task, size in sizes.items()} if weights is None else dict(weights)
        if unknown := sorted(set(weights) ^ set(sizes)):
            raise InputError(f"sampling weights and data name different tasks: {', '.join(unknown)}")
        if negative := sorted(task for task, weight in weights.items() if not (weight >= 0 and np.isfinite(weight))):
            raise InputError(f"the sampling weight of {', '.join(negative)} is not a number of 0 or more")
        self.tasks = [task for task in sizes if weights[task] > 0]
        if not self.tasks:
            raise InputError("there is no task with a sampling weight above 0")
        if empty := [task for task in self.tasks if sizes[task] < 1]:
            raise InputError(f"no samples for {', '.join(empty)}: give its data or set its weight to 0")
        if mode == "mixed" and not isinstance(micro_batch, int):
            raise TypeError("in mixed mode all tasks share one micro_batch")
        self.mode, self.seed, self.rank, self.world_size = mode, seed, rank, world_size
        self.accumulation_steps = accumulation_steps
        self.draw_ranks = draw_ranks or world_size
        if self.draw_ranks % world_size and self._draws_matter:
            raise InputError(
                f"--draw_ranks {self.draw_ranks} does not divide by {world_size} ranks, which would have different "
                f"tasks at a time; run on as many ranks as divide {self.draw_ranks}"
            )
        self.sizes = [sizes[task] for task in self.tasks]
        shares = np.array([weights[task] for task in self.tasks])
        self.shares = shares / shares.sum()
        self.micro_batches = [
            micro_batch if isinstance(micro_batch, int) else int(micro_batch[task]) for task in self.tasks
        ]
        self._counts = [np.zeros(len(self.tasks), dtype=np.int64)]  # draws of each task before block b
        self._permutations: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._block = lru_cache(maxsize=8)(self._draw_block)

    def references(self, step: int, micro_step: int = 0) -> list[SampleReference]:
        """This rank's samples of a micro-step; steps and micro-steps count from 0."""
        number = self.number(step, micro_step)
        if self.mode == "one_task":
            draw, place = divmod(number, self.draw_ranks)
            task, earlier = self._draw(draw)
            size = self.micro_batches[task]
            first = (earlier * self.draw_ranks + place) * size
            return [self._reference(task, first + offset) for offset in range(size)]
        size = self.micro_batches[0]
        first = number * size
        return [self._reference(*self._draw(first + offset)) for offset in range(size)]

    def number(self, step: int, micro_step: int = 0) -> int:
        """The micro-batch's number over all steps and ranks."""
        return (step * self.accumulation_steps + micro_step) * self.world_size + self.rank

    def fingerprint(self) -> dict[str, Any]:
        """All that the draws depend on beside rank and step; a run can be resumed only where this is unchanged."""
        per_task = zip(self.sizes, self.shares.tolist(), self.micro_batches, strict=True)
        return {
            "mode": self.mode,
            "seed": self.seed,
            "micro_batches_per_step": self.accumulation_steps * self.world_size,
            **({"micro_batches_per_draw": self.draw_ranks} if self._draws_matter else {}),
            "tasks": {
                task: {"samples": size, "share": share, "micro_batch": micro_batch}
                for task, (size, share, micro_batch) in zip(self.tasks, per_task, strict=True)
            },
        }

    @property
    def _draws_matter(self) -> bool:
        return self.mode == "one_task" and len(self.tasks) > 1

    def _draw(self, number: int) -> tuple[int, int]:
        """The task of a draw, and how many earlier draws had the same task."""
        block, offset = divmod(number, _BLOCK)
        while len(self._counts) <= block:
            tasks, _ = self._block(len(self._counts) - 1)
            self._counts.append(self._counts[-1] + np.bincount(tasks, minlength=len(self.tasks)))
        tasks, earlier_in_block = self._block(block)
        task = int(tasks[offset])
        return task, int(self._counts[block][task] + earlier_in_block[offset])

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The tasks of one block of draws, and for each draw how many before it in the block had its task."""
        generator = np.random.default_rng([self.seed, 0, block])
        tasks = generator.choice(len(self.tasks), size=_BLOCK, p=self.shares)
        earlier = np.empty(_BLOCK, dtype=np.int64)
        for task in range(len(self.tasks)):
            where = np.flatnonzero(tasks == task)
            earlier[where] = np.arange(len(where))
        return tasks, earlier

    def _reference(self, task: int, position: int) -> SampleReference:
        epoch, offset = divmod(position, self.sizes[task])
        seed = int(np.random.SeedSequence([self.seed, 2, task, position]).generate_state(1, np.uint64)[0] >> 1)
        return SampleReference(self.tasks[task], int(self._permutation(task, epoch)[offset]), seed)

    def _permutation(self, task: int, epoch: int) -> np.ndarray:
        key = (task, epoch)
        if key not in self._permutations:
            generator = np.random.default_rng([self.seed, 1, task, epoch])
            self._permutations[key] = generator.permutation(self.sizes[task])
            if len(self._permutations) > 2 * len(self.tasks):  # a batch spans two epochs of a task at most
                self._permutations.popitem(last=False)
        self._permutations.move_to_end(key)
        return self._permutations[key]
