"""Muon for the weight matrices inside a network, AdamW for everything else, as one optimiser.

Adam scales each entry of a matrix by itself, and a few directions come to make up most of an update.  Muon (Jordan et
al., Muon: An optimizer for hidden layers in neural networks, 2024) makes the momentum's directions equally large
instead, so that rare ones are learned at the pace of the common ones.  torch.optim.Muon takes no kernels
of convolutions and leaves everything else to a second optimiser, where DeepSpeed's engine takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed import world_size

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, steepest at zero, that Jordan et al. found
ITERATIONS = 5
MATCHED_RMS = 0.2  # of AdamW's updates, which Muon's are made as large as (Liu et al., Muon is scalable, 2025)


class MuonWithAdamW(torch.optim.AdamW):
    """Groups with ``muon=True`` hold matrices, or kernels, taken as outputs by the rest; AdamW has the others.

    Whole weights are needed, each as it is in the model: not ZeRO's partitions.  A rate of AdamW suits both, since
    Muon's updates have the root mean square of AdamW's; ``muon_rate`` of a group multiplies it.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **options: Any) -> None:
        super().__init__(list(groups), **options)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group.setdefault("muon_rate", 1.0)
            group.setdefault("momentum", momentum)
            if group["muon"] and any(parameter.dim() < 2 for parameter in group["params"]):
                raise ValueError("Muon takes matrices and kernels; leave biases and norms to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self._step_group(group)
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            if self.param_groups:
                super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        rate = float(group["lr"])
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter, update in zip(
            parameters, orthogonalised_by_ranks([self._look_ahead(p, group) for p in parameters]), strict=True
        ):
            scale = MATCHED_RMS * max(update.shape) ** 0.5 * group["muon_rate"]
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-rate * scale)

    def _look_ahead(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """The gradient joins the momentum -> Nesterov's look ahead along it, as a matrix."""
        state = self.state[parameter]
        if not state:  # AdamW reads "step" of every state that it loads
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        gradient, momentum = parameter.grad, state["momentum"]
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"]).flatten(1)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(m, n) -> U S V^T of its singular vectors, with S between about 0.6 and 1.2: close enough to 1 for an update.

    Newton-Schulz iterations, in the matrix's type.  Singular values below a hundredth of the norm stay smaller; those
    of directions without a gradient stay zero.

    An iteration multiplies X by a polynomial of X X^T.  Where X is much longer than wide, as kernels of convolutions
    are, the product of all these is found first, among matrices of the smaller side, and X is multiplied once.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)  # singular values up to 1
    apart = x.shape[1] > 2 * x.shape[0]
    product = torch.eye(len(x), dtype=x.dtype, device=x.device) if apart else x
    gram = x @ x.T
    for iteration in range(ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        if iteration < ITERATIONS - 1:
            gram = factor @ gram @ factor if apart else product @ product.T
    if apart:
        product = product @ x
    return product.T if tall else product


def orthogonalised_by_ranks(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalised` of each matrix, the same ones on all ranks: each rank computes a share, and all get the rest."""
    ranks = world_size()
    if ranks == 1:
        return [orthogonalised(matrix) for matrix in matrices]
    results: dict[int, Tensor] = {}
    shares = shares_of([(matrix.shape[0], matrix.shape[1]) for matrix in matrices], ranks)
    # before any rank waits for another, or they would compute one after the other
    mine = [orthogonalised(matrices[index]).flatten() for index in shares[dist.get_rank()]]
    for owner, share in enumerate(shares):
        if not share:
            continue
        sizes = [matrices[index].numel() for index in share]
        if owner == dist.get_rank():
            flat = torch.cat(mine)
        else:
            flat = matrices[share[0]].new_empty(sum(sizes))
        dist.broadcast(flat, owner)
        for index, values in zip(share, flat.split(sizes), strict=True):
            results[index] = values.view_as(matrices[index])
    return [results[index] for index in range(len(matrices))]


def shares_of(shapes: Sequence[tuple[int, int]], ranks: int) -> list[list[int]]:
    """Which matrices each rank computes: the dearest first, each to the rank that has the least to do."""
    costs = [rows * columns * min(rows, columns) for rows, columns in shapes]
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(shapes)), key=lambda index: (-costs[index], index)):
        rank = loads.index(min(loads))
        loads[rank] += costs[index]
        shares[rank].append(index)
    return shares


def split_for_muon(groups: Iterable[dict[str, Any]], matrices: Iterable[Tensor], rate: float) -> list[dict[str, Any]]:
    """The groups, each split into what Muon takes, which is what ``matrices`` has, and the rest.

    A group with ``muon=False`` is left to AdamW as it is.
    """
    taken = {id(matrix) for matrix in matrices}
    split = []
    for group in groups:
        wanted = taken if group.get("muon", True) else set()
        for muon in (False, True):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in wanted) == muon]
            if parameters:
                split.append({**group, "params": parameters, "muon": muon, "muon_rate": rate})
    return split
