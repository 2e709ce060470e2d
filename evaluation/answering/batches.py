"""Questions in batches that do not depend on the number of ranks, so that neither do the answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from datasets.manifest import InstructionRecord

Batch = list[InstructionRecord]


def plan_batches(records: Sequence[InstructionRecord], batch_size: int) -> list[Batch]:
    """Batches of ``batch_size`` questions, those about one volume behind each other.

    A question's neighbours in its batch change its answer in the last digits.  So batches are a function of the
    manifest alone, and ranks share whole batches.
    """
    by_volume: dict[tuple[str, ...], Batch] = {}
    for record in records:
        by_volume.setdefault(tuple(record.image_path), []).append(record)
    ordered = [record for group in by_volume.values() for record in group]
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def share(batches: Sequence[Batch], done: Collection[str], rank: int, ranks: int) -> list[Batch]:
    """This rank's part of the batches with an unanswered question: a stretch of them, so that a volume with several
    batches goes to one rank, or to two neighbours at most."""
    waiting = [batch for batch in batches if any(record.id not in done for record in batch)]
    return waiting[len(waiting) * rank // ranks : len(waiting) * (rank + 1) // ranks]
