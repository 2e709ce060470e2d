"""Random states: one seed for all generators, and their states as plain data for a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

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


def get_state(cuda: bool = True) -> dict[str, Any]:
    """The states of all generators (current CUDA device), in types that `torch.load(weights_only=True)` reads."""
    name, keys, position, has_gauss, gauss = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if cuda and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_state(state: dict[str, Any]) -> None:
    """Restore what `get_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved(cuda: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, the generators go on as if nothing had been."""
    state = get_state(cuda)
    try:
        yield
    finally:
        set_state(state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU generators start from `seed`; afterwards they are as before.  Safe in a forked data worker."""
    state = get_state(cuda=False)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        set_state(state)
