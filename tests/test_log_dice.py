"""The logarithm of Dice: its value by a loop, its gradient where Dice has none, and where it is switched on."""

from __future__ import annotations

import math

import pytest
import torch

from models.extensions.log_dice import log_dice
from models.masks.losses import masked_dice
from tests.pretraining_samples import make_batch, tiny_pretraining


def test_its_value_is_that_of_a_loop_over_voxels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 3, 4)
    target = torch.randint(-1, 2, (2, 3, 2, 3, 4))
    target[:, 2] = target[:, 2].clamp(max=0)  # the third structure is nowhere
    expected = 0.0
    for structure in range(2):
        overlap = size = 0.0
        pairs = zip(logits[:, structure].flatten().tolist(), target[:, structure].flatten().tolist(), strict=True)
        for logit, truth in pairs:
            if truth != -1:
                probability = 1 / (1 + math.exp(-logit))
                overlap += probability * truth
                size += probability**2 + truth**2
        expected -= math.log(2 * overlap / size)
    assert log_dice(logits, target).item() == pytest.approx(expected / 3, rel=1e-5)


def test_a_mask_of_next_to_nothing_has_a_gradient_where_dice_has_none() -> None:
    target = torch.zeros(1, 1, 2, 2, 2)
    target[..., 0] = 1
    gradients = {}
    for loss in (log_dice, masked_dice):
        logits = torch.full_like(target, -200.0, requires_grad=True)  # sigmoid gives 0 in float32
        loss(logits, target).backward()
        gradients[loss.__name__] = logits.grad
    assert gradients["masked_dice"].abs().max() == 0
    torch.testing.assert_close(gradients["log_dice"], -target / 4)  # all of one structure's voxels together -1


def test_an_empty_truth_pulls_at_nothing_and_gives_a_gradient() -> None:
    logits = torch.randn(1, 2, 2, 2, 2)
    logits[:, 1] = -200.0  # its probabilities are 0 in float32
    logits.requires_grad_(True)
    loss = log_dice(logits, torch.zeros(1, 2, 2, 2, 2))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.abs().max() == 0


def test_it_takes_the_place_of_dice_in_training_alone() -> None:
    batch = make_batch("segmentation", [0, 1])
    model, plain = tiny_pretraining(log_dice=True), tiny_pretraining()
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each.vision.eval()  # no dropout
    logarithm, output = model(batch).metrics, plain(batch).metrics
    assert logarithm["mask_bce"] == output["mask_bce"]
    assert logarithm["mask_dice"] > output["mask_dice"], "-log(x) is above 1 - x"
    assert model.eval()(batch).metrics == plain.eval()(batch).metrics, "runs stay comparable"
