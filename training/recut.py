"""A run's state for another number of ranks than saved it: what ZeRO shares out is put together and cut anew.

ZeRO 1 and 2 lay the weights of a group out end to end, fill up with zeros until the ranks divide the length, and give
each rank an equal piece of that and of the optimiser's moments.  So the pieces in the order of the ranks are the whole,
and another number of pieces of the whole is what other ranks need.  ZeRO 3 does so with each weight by itself, and lays
a rank's pieces of many weights out end to end.  Under ZeRO 0 each rank has everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.errors import InputError
from training import checkpoint_store, distributed, zero3
from training.distributed import Ranks


def load_state(engine: Any, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """The training state that a checkpoint has for this rank, tensors on the CPU.

    Raises InputError, on every rank, where it was saved by another number of ranks and cannot be cut anew.
    """
    saved = checkpoint_store.saved_ranks(folder)
    if saved == ranks.world_size:
        return checkpoint_store.load_rank_state(folder, ranks.rank)
    optimizer = engine.optimizer
    refusal = InputError(
        f"{folder}: saved by {saved} rank(s), and with round_robin_gradients of --deepspeed_config no other number, as "
        f"{ranks.world_size}, can go on with it; resume on {saved}, or begin a new run from the checkpoint's model "
        "folder"
    )
    distributed.raise_together(refusal if getattr(optimizer, "round_robin_gradients", False) else None)
    # mapped: of the other ranks' files no more is read than this rank's piece
    states = [checkpoint_store.load_rank_state(folder, rank, mapped=True) for rank in range(saved)]
    if zero3.is_stage_3(optimizer):
        return recut_by_weight(states, ranks.rank, ranks.world_size, *zero3.layout(optimizer))
    whole = not hasattr(optimizer, "single_partition_of_fp32_groups")
    sizes = [] if whole else [len(piece) for piece in optimizer.single_partition_of_fp32_groups]
    return recut(states, ranks.rank, sizes)


def recut(states: Sequence[dict[str, Any]], rank: int, sizes: Sequence[int]) -> dict[str, Any]:
    """The state of `rank` among the new ranks, from those of all ranks that saved, in their order.

    sizes: of a new rank's piece of each group of weights; empty where every rank has everything (ZeRO 0).
    Buffers that follow each rank's own samples, as the statistics of a batch norm, become their mean over the ranks.
    """
    first = states[0]
    result = {**first, "buffers": _buffers(states)}
    if not sizes:
        return result

    def anew(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [cut(pieces, rank, size) for pieces, size in zip(zip(*tensors, strict=True), sizes, strict=True)]

    result["weights"] = anew([state["weights"] for state in states])
    moments = _moments(states, anew, range(len(sizes)))
    result["optimizer"] = {**first["optimizer"], "state": moments}
    return result


def recut_by_weight(
    states: Sequence[dict[str, Any]], rank: int, ranks: int, lengths: Sequence[Sequence[int]], groups: Sequence[int]
) -> dict[str, Any]:
    """`recut` for ZeRO 3: the state of `rank` of `ranks`, from those of all ranks that saved, in their order.

    lengths: elements of each weight, a list for each of the new rank's flat tensors; groups: the optimiser's group that
    each of these belongs to.  The saved ones may hold other numbers of weights, in the same order.
    """
    first, saved = states[0], len(states)
    flat = [length for of_tensor in lengths for length in of_tensor]

    def anew(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Flat tensors of each saved rank -> the new rank's."""
        by_weight = zip(
            *(_pieces(of_rank, [-(-length // saved) for length in flat]) for of_rank in tensors), strict=True
        )
        cuts = iter([cut(pieces, rank, -(-length // ranks)) for pieces, length in zip(by_weight, flat, strict=True)])
        return [torch.cat([next(cuts) for _ in of_tensor]) for of_tensor in lengths]

    saved_groups = first["optimizer"]["param_groups"]
    moments = _moments(states, anew, [saved_groups[group]["params"][0] for group in groups])
    options = [
        {**group, "params": [tensor for tensor, of in enumerate(groups) if of == number]}
        for number, group in enumerate(saved_groups)
    ]
    return {
        **first,
        "buffers": _buffers(states),
        "weights": anew([state["weights"] for state in states]),
        "optimizer": {**first["optimizer"], "state": moments, "param_groups": options},
    }


def _moments(
    states: Sequence[dict[str, Any]],
    anew: Callable[[Sequence[Sequence[Tensor]]], list[Tensor]],
    alike: Sequence[int],
) -> dict[int, dict[str, Any]]:
    """The optimiser's state of the new rank's flat tensors: what has a value for each weight goes with the weights.

    anew: flat tensors of each saved rank -> the new rank's.  alike: for each of these, the saved tensor of its group,
    whose other values it takes: the number of steps, which each counts on by itself.
    """
    saved = [state["optimizer"]["state"] for state in states]
    if not saved[0]:
        return {}
    shape = states[0]["weights"][0].shape
    names = [name for name, value in saved[0][0].items() if isinstance(value, Tensor) and value.shape == shape]
    moved = {name: anew([[of_rank[i][name] for i in sorted(of_rank)] for of_rank in saved]) for name in names}
    return {
        number: {name: deepcopy(value) for name, value in saved[0][like].items() if name not in moved}
        | {name: tensors[number] for name, tensors in moved.items()}
        for number, like in enumerate(alike)
    }


def _pieces(tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Flat tensors, one behind the other -> views of `sizes` elements; none reaches from one tensor into the next."""
    views, rest = [], iter(tensors)
    tensor, place = next(rest), 0
    for size in sizes:
        if place == len(tensor):
            tensor, place = next(rest), 0
        views.append(tensor[place : place + size])
        place += size
    return views


def cut(pieces: Sequence[Tensor], rank: int, size: int) -> Tensor:
    """Elements rank * size up to (rank + 1) * size of the equal, flat `pieces` end to end, with zeros behind them."""
    result, length = pieces[0].new_zeros(size), len(pieces[0])
    begin = rank * size
    for number, piece in enumerate(pieces):
        start, end = max(begin, number * length), min(begin + size, (number + 1) * length)
        if start < end:
            result[start - begin : end - begin] = piece[start - number * length : end - number * length]
    return result


def _buffers(states: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: _mean([state["buffers"][name] for state in states]) for name in states[0]["buffers"]}


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Of floating point where the ranks differ; a count, and what is the same on all ranks, is the first one's."""
    first = values[0]
    if not first.is_floating_point() or all(torch.equal(first, value) for value in values[1:]):
        return first
    return torch.stack([value.float() for value in values]).mean(0).to(first.dtype)
