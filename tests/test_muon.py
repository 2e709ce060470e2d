"""Muon against the singular value decomposition, and as an optimiser of the training loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from datasets.errors import InputError
from models.configuration import vision_preset
from models.parameters import hidden_matrices
from models.pretraining import PretrainingModel
from models.vision import VisionModel
from tests.tiny_model import tiny_ctinstruct
from training.deepspeed_config import resolve_precision
from training.muon import MATCHED_RMS, MuonWithAdamW, orthogonalised, shares_of, split_for_muon
from training.settings import TrainingSettings


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (1, 9)])
def test_update_keeps_the_singular_vectors_and_makes_their_values_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(-1, 1, shape[1]))
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalised(matrix) @ v.T
    assert values.max() / values.min() > 10 or shape[0] == 1
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-3
    assert inside.diag()[values > 0.01 * values.norm()].min() > 0.5
    assert inside.diag().min() > 0 and inside.diag().max() < 1.3


def test_one_step_is_the_formula() -> None:
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(6, 4, 3, 3))
    before, rate, decay = weight.detach().clone(), 0.01, 0.1
    optimizer = MuonWithAdamW([{"params": [weight], "muon": True, "muon_rate": 2.0}], lr=rate, weight_decay=decay)
    gradients = [torch.randn_like(weight) for _ in range(2)]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    expected, momentum = before, torch.zeros_like(before)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        update = orthogonalised(ahead.reshape(6, 36)).reshape(6, 4, 3, 3)
        expected = (1 - rate * decay) * expected - rate * 2.0 * MATCHED_RMS * 36**0.5 * update
    assert torch.allclose(weight, expected, atol=1e-6)


def update_size(muon: bool, gradients: list[torch.Tensor], rate: float) -> float:
    """Root mean square of the last ten changes of a weight; AdamW's first ones are larger, being of few gradients."""
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = MuonWithAdamW([{"params": [weight], "muon": muon}], lr=rate, weight_decay=0.0)
    weights = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        weights.append(weight.detach().clone())
    return torch.stack(weights[-11:]).diff(dim=0).square().mean().sqrt().item()


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64), (32, 16, 3, 3)])
def test_an_update_is_as_large_as_that_of_adamw(shape: tuple[int, ...]) -> None:
    """On gradients of noise, whose running average has (1 - beta1) / (1 + beta1) of their variance."""
    torch.manual_seed(2)
    gradients, rate = [torch.randn(shape) for _ in range(40)], 0.01
    adamw, muon = (update_size(kind, gradients, rate) for kind in (False, True))
    assert adamw == pytest.approx(rate * (0.1 / 1.9) ** 0.5, rel=0.1)
    assert muon == pytest.approx(rate * MATCHED_RMS, rel=0.2)
    assert muon == pytest.approx(adamw, rel=0.3)


def test_what_is_not_a_matrix_goes_as_with_adamw_alone() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    other = copy.deepcopy(model)
    groups = split_for_muon([{"params": list(model.parameters()), "lr": 0.02}], [model[0].weight], 1.0)
    mixed = MuonWithAdamW(groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    plain = torch.optim.AdamW(other.parameters(), lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)
    x = torch.randn(5, 8)
    for parameters, optimizer in ((model, mixed), (other, plain)):
        parameters(x).square().sum().backward()
        optimizer.step()
    same = {name: torch.allclose(p, dict(other.named_parameters())[name]) for name, p in model.named_parameters()}
    assert same == {name: name != "0.weight" for name in same}


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    torch.manual_seed(4)
    whole, data = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)), torch.randn(8, 6)

    def optimizer_of(model: nn.Module) -> MuonWithAdamW:
        return MuonWithAdamW(split_for_muon([{"params": list(model.parameters())}], [model[0].weight], 1.0), lr=0.01)

    def run(model: nn.Module, optimizer: MuonWithAdamW, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()

    optimizer = optimizer_of(whole)
    run(whole, optimizer, 3)
    resumed = copy.deepcopy(whole)
    resumed_optimizer = optimizer_of(resumed)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(whole, optimizer, 3)
    run(resumed, resumed_optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_an_ill_scaled_problem_is_learned_in_fewer_steps_than_with_adamw() -> None:
    torch.manual_seed(5)
    truth = torch.linalg.qr(torch.randn(16, 16))[0]
    data = torch.randn(64, 16) @ torch.diag(torch.logspace(-2, 0, 16)) @ torch.linalg.qr(torch.randn(16, 16))[0]
    losses = {}
    for kind in ("Muon", "AdamW"):
        layer = nn.Linear(16, 16, bias=False)
        nn.init.zeros_(layer.weight)
        group = {"params": [layer.weight], "muon": kind == "Muon"}
        optimizer = MuonWithAdamW([group], lr=0.05, weight_decay=0.0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (layer(data) - data @ truth).square().mean()
            loss.backward()
            optimizer.step()
        losses[kind] = (layer.weight.detach().T - truth).square().mean().item()
    assert losses["Muon"] < 0.5 * losses["AdamW"]


def test_matrices_are_those_inside_the_network() -> None:
    pretraining = PretrainingModel(VisionModel(vision_preset("tiny")))
    tuned = tiny_ctinstruct()
    for model in (pretraining, tuned):
        taken = {id(weight) for weight in hidden_matrices(model)}
        names = {name for name, parameter in model.named_parameters() if id(parameter) in taken}
        assert len(names) == len(taken) > 10 and all(name.endswith("weight") for name in names)
        assert not any(word in name for name in names for word in ("embed", "lm_head", "norm", "bn", "heads", "fc."))
        part = "vision.encoder." if model is pretraining else ("vision.bridger.", "language_model.")
        assert all(name.startswith(part) for name in names)
    assert not any("resnet2D.conv1" in name for name in names), "it sees voxels"


def three_steps() -> list[torch.Tensor]:
    """Weights after three steps with gradients that are the same on all ranks, as after their mean was taken."""
    torch.manual_seed(6)
    shapes = [(12, 12), (4, 30), (30, 4), (8, 3, 3, 3), (2, 2)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = MuonWithAdamW([{"params": weights, "muon": True}], lr=0.02)
    for step in range(3):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight) if (step, index) != (1, 4) else None
        optimizer.step()
    return [weight.detach() for weight in weights]


def _rank(rank: int, folder: str, ranks: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=ranks)
    torch.save(three_steps(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_that_share_the_work_get_the_weights_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path), 2), nprocs=2)
    expected = three_steps()
    for rank in range(2):
        weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_each_matrix_is_computed_by_one_rank_and_the_dearest_apart(ranks: int) -> None:
    shapes = [(64, 64), (8, 8), (64, 64), (16, 64), (32, 32)]
    shares = shares_of(shapes, ranks)
    assert sorted(index for share in shares for index in share) == list(range(5)) and len(shares) == ranks
    if ranks > 1:
        assert not any({0, 2} <= set(share) for share in shares)


def test_bf16_weights_are_refused_with_what_suits_muon() -> None:
    settings = TrainingSettings(optimizer="Muon", zero_stage=0)
    with pytest.raises(InputError, match=r"bf16 weights: use --precision fp32$"):
        resolve_precision(settings, torch.device("cuda"))
    assert resolve_precision(replace(settings, precision="fp32"), torch.device("cuda")) == "fp32"
    with pytest.raises(InputError, match="use --zero_stage 1 or --precision fp32"):
        resolve_precision(replace(settings, optimizer="AdamW"), torch.device("cuda"))


def test_sharing_out_matrices_is_refused() -> None:
    with pytest.raises(InputError, match="--zero_stage 0, not 2"):
        TrainingSettings(optimizer="Muon").validate()
    TrainingSettings(optimizer="Muon", zero_stage=0).validate()
    with pytest.raises(ValueError, match="biases"):
        MuonWithAdamW([{"params": [nn.Parameter(torch.zeros(3))], "muon": True}])
