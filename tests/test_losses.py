"""Losses against sums written out in loops, in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from models.masks.losses import mask_loss, masked_bce, masked_dice, weighted_bce


def random_masks(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two volumes of three masks; voxels are 0, 1 or -1, with another share of each in each mask."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, 3, 4, 5, 2, generator=generator)
    target = torch.randint(-1, 2, logits.shape, generator=generator).float()
    target[0, 1, :2] = -1
    return logits, target


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bce_against_loops():
    logits, target = random_masks()
    terms = []
    for logit, truth in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        if truth != -1:
            terms.append(-math.log(sigmoid(logit) if truth else 1 - sigmoid(logit)))
    assert float(masked_bce(logits, target)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_dice_against_loops():
    logits, target = random_masks()
    target[1, 2] = -1  # a mask of which nothing is known does not count
    losses = []
    for volume in range(2):
        for label in range(3):
            overlap = size = known = 0.0
            pairs = zip(logits[volume, label].flatten().tolist(), target[volume, label].flatten().tolist(), strict=True)
            for logit, truth in pairs:
                if truth != -1:
                    known += 1
                    overlap += sigmoid(logit) * truth
                    size += sigmoid(logit) ** 2 + truth**2
            if known:
                losses.append(1 - 2 * overlap / size)
    assert len(losses) == 5
    assert float(masked_dice(logits, target)) == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_dice_of_right_and_wrong_masks():
    target = torch.zeros(1, 4, 4, 4)
    target[:, :2] = 1
    right = 40 * (target - 0.5)
    assert float(masked_dice(right, target)) == pytest.approx(0, abs=1e-6)
    assert float(masked_dice(-right, target)) == pytest.approx(1, abs=1e-6)
    empty = torch.zeros_like(target)
    assert float(masked_dice(torch.full_like(target, -60.0), empty)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [masked_bce, masked_dice])
def test_ignored_voxels_have_no_say(loss):
    logits, target = random_masks()
    logits.requires_grad_()
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[target == -1] == 0).all() and (gradient[target != -1] != 0).any()
    changed = torch.where(target == -1, torch.full_like(logits, -100.0), logits)
    assert torch.equal(loss(changed, target), value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.bfloat16])
def test_targets_of_any_type_and_low_precision_logits(dtype: torch.dtype):
    logits, target = random_masks()
    expected = mask_loss(logits.bfloat16().float(), target)
    actual = mask_loss(logits.bfloat16(), target.to(dtype))
    assert [float(value) for value in actual] == pytest.approx([float(value) for value in expected])
    assert all(value.dtype == torch.float32 for value in actual)


def test_nothing_known_is_zero_and_has_a_gradient():
    logits = torch.randn(2, 4, 4, 4, requires_grad=True)
    for value in mask_loss(logits, torch.full_like(logits, -1)):
        assert value.item() == 0
        assert (torch.autograd.grad(value, logits)[0] == 0).all()
    empty = torch.randn(0, 4, 4, 4, requires_grad=True)
    for value in mask_loss(empty, torch.zeros(0, 4, 4, 4)):
        assert value.item() == 0 and value.requires_grad
    heads = torch.randn(3, 5, requires_grad=True)
    value = weighted_bce(heads, torch.full((3, 5), float("nan")), torch.ones(5))
    assert value.item() == 0
    assert (torch.autograd.grad(value, heads)[0] == 0).all()


def test_weighted_bce_against_loops():
    logits = torch.tensor([[0.3, -2.0, 1.5], [4.0, 0.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    weights = [3.0, 0.5, 7.0]
    terms = []
    for row, truths in zip(logits.tolist(), targets.tolist(), strict=True):
        for logit, truth, weight in zip(row, truths, weights, strict=True):
            if not math.isnan(truth):
                terms.append(-weight * math.log(sigmoid(logit)) if truth else -math.log(1 - sigmoid(logit)))
    assert len(terms) == 5
    assert float(weighted_bce(logits, targets, torch.tensor(weights))) == pytest.approx(sum(terms) / 5, rel=1e-5)
