"""The optimiser's groups of weights when a run goes on: the weights in each must be as before, its options not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from datasets.errors import InputError

Group = Mapping[str, Any]


def check_groups(
    saved: Sequence[Group], now: Sequence[Group], weights: tuple[Sequence[Tensor], Sequence[Tensor]], folder: Any
) -> None:
    """Raise InputError where a checkpoint's weights lie in other groups than this run's: moments would go astray.

    That is for checkpoints of before, which have no `fingerprint`: it knows kinds, sizes and shapes alone.
    weights: those of the checkpoint and of the run, in the order of the groups.  folder: the checkpoint's.
    """
    kinds = [[bool(group.get("muon")) for group in groups] for groups in (saved, now)]
    # ZeRO 3 takes the parameters out of its groups between steps; what it has is told by the weights then
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, now)]
    shapes = [[tuple(weight.shape) for weight in side] for side in weights]
    if kinds[0] != kinds[1] or shapes[0] != shapes[1] or (any(sizes[1]) and sizes[0] != sizes[1]):
        raise InputError(
            f"{folder}: cannot resume, its optimiser had the weights in other groups; give the --optimizer and the "
            "options of Muon and of rates (as --attention_rate) that the run was started with, or begin a new run from "
            "the checkpoint's model folder"
        )


def fingerprint(model: nn.Module, groups: Sequence[Group]) -> str:
    """A hash of which weights, by name, each group has, in their order, and whether Muon takes them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    told = [[bool(group.get("muon")), *(names[id(weight)] for weight in group["params"])] for group in groups]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def own_options(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What each group says beside its weights."""
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]
