"""Random states: one seed for all generators, and generators that go on as if nothing had been drawn meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (CPU and every CUDA device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_micro_batch(seed: int, number: int) -> None:
    """Seed all generators for the forward pass of a run's micro-batch, so that what it draws depends on nothing else.

    number: of the micro-batch, counted over all steps and ranks: the same samples draw the same on any rank.
    """
    seed_all(int(np.random.SeedSequence([seed, 5, number]).generate_state(1, np.uint64)[0] >> 1))


@contextmanager
def preserved(cuda: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, the generators (with cuda, that of the current CUDA device too) go on as if nothing had
    been."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_device = torch.cuda.get_rng_state() if cuda and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if of_device is not None:
            torch.cuda.set_rng_state(of_device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU generators start from `seed`; afterwards they are as before.  Safe in a forked data worker."""
    with preserved(cuda=False):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
