"""How far two answers are the same, token by token."""

from __future__ import annotations

from collections.abc import Sequence


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Place of the first token that differs, or None for two answers that are the same."""
    for place, (own, others) in enumerate(zip(one, other, strict=False)):
        if own != others:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def agreement(one: Sequence[int], other: Sequence[int]) -> str:
    """How far they are the same, in words."""
    same = first_difference(one, other)
    if same is None:
        return f"the same {len(one)} tokens"
    return f"the same first {same} of {max(len(one), len(other))} tokens"
