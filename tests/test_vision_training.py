"""The vision model in training and in low precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.vision import PADDING_LOGIT, VisionModel
from tests.vision_samples import TINY, assert_close, padded_volume, vision_model

model = vision_model  # the fixture


def training_step(model: VisionModel) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """One backward pass -> loss, gradients, buffers."""
    torch.manual_seed(3)
    encoded = model.encode(*padded_volume())
    masks = model.decode_masks(encoded, torch.randn(2, TINY.llm_width))
    real = masks != PADDING_LOGIT
    loss = masks[real].square().mean() + model.llm_tokens(encoded).square().mean()
    loss.backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return loss.detach(), gradients, {name: part.clone() for name, part in model.named_buffers()}


def test_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    model = VisionModel(TINY).train()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss, gradients, buffers = training_step(model)
    model.load_state_dict(start)
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing_enable()
    again, recomputed_gradients, recomputed_buffers = training_step(model)
    assert torch.allclose(again, loss, rtol=1e-6)
    assert recomputed_gradients.keys() == gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (recomputed_gradients[name] - gradient).abs().max() <= 1e-5 * scale, name
    for name, buffer in buffers.items():
        assert torch.allclose(recomputed_buffers[name], buffer, rtol=1e-5, atol=1e-6), name
    counts = {int(buffer) for name, buffer in buffers.items() if name.endswith("num_batches_tracked")}
    assert counts == {1}


def test_checkpointing_repeats_the_mode_of_the_first_pass():
    """Batch norms that were frozen for one encoding are frozen again when it is recomputed, though training since."""
    torch.manual_seed(0)
    model = VisionModel(TINY).train()
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    gradients = []
    for enabled in (False, True):
        model.gradient_checkpointing_enable(enabled)
        for norm in norms:
            norm.eval()
        encoded = model.encode(*padded_volume())
        for norm in norms:
            norm.train()
        weight = model.encoder.resnet2D.layer2[0].conv2.weight
        gradients.append(torch.autograd.grad(encoded.tokens.square().mean(), weight)[0])
        assert all(norm.training and norm.momentum == 0.1 and norm.num_batches_tracked == 0 for norm in norms)
    assert_close(gradients[1], gradients[0])


def test_every_used_parameter_learns():
    """The published weights hold a few that nothing reads: these and no others go without a gradient."""
    torch.manual_seed(0)
    model = VisionModel(TINY).train()
    _, gradients, _ = training_step(model)
    idle = {name for name, _ in model.named_parameters()} - gradients.keys()
    assert idle and all(".fc." in name or "context_norm" in name or ".norm1." in name for name in idle)
    assert not any(name.startswith("decoder.") for name in idle)


def test_evaluation_mode_passes_gradients_to_the_queries(model: VisionModel):
    """A frozen vision model still teaches the language model where to look; many slices mean several chunks."""
    with torch.no_grad():
        encoded = model.encode(*padded_volume())
    queries = torch.randn(2, TINY.llm_width, requires_grad=True)
    logits = model.decode_masks(encoded, queries)
    weights = torch.randn_like(logits) * (logits != PADDING_LOGIT)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), queries)
    with torch.no_grad():
        direction = gradient / gradient.norm()
        ends = [model.decode_masks(encoded, queries + step * direction).double() for step in (0.05, -0.05)]
    slope = float(((ends[0] - ends[1]) * weights).sum()) / 0.1
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["autocast", "bfloat16"])
def test_half_precision_stays_near(model: VisionModel, mode: str):
    volume, queries = padded_volume(), torch.randn(2, TINY.llm_width)
    encoded = model.encode(*volume)
    expected = [encoded.tokens, model.llm_tokens(encoded), model.decode_masks(encoded, queries, only_real_slices=False)]
    other = VisionModel(TINY).eval()
    other.load_state_dict(model.state_dict())
    if mode == "bfloat16":
        other.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        encoded = other.encode(*volume)
        actual = [
            encoded.tokens,
            other.llm_tokens(encoded),
            other.decode_masks(encoded, queries, only_real_slices=False),
        ]
    for low, high in zip(actual, expected, strict=True):
        assert (low.float() - high).abs().mean() < 0.03 * high.std()
