"""How far a volume's tokens lie apart, in the log of a pretraining: against a loop, and without a part in the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from models.configuration import ENCODER_NAMES
from models.pretraining import PretrainingModel, token_spread
from tests.encoder_samples import model_of, volume_of
from tests.pretraining_samples import make_batch, tiny_pretraining


@pytest.fixture(scope="module")
def model() -> PretrainingModel:
    return tiny_pretraining().eval()


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
@pytest.mark.parametrize("noise", [0.0, math.nan, math.inf])
def test_it_equals_a_loop_over_the_tokens_outside_the_padding(encoder: str, noise: float) -> None:
    with torch.no_grad():
        encoded = model_of(encoder).encode_many([volume_of(encoder), volume_of(encoder, grid=(1, 2, 1), seed=2)])
    assert not all(bool(volume.valid.all()) for volume in encoded)
    shares = []
    for volume in encoded:
        tokens = [t for patch, known in zip(volume.tokens, volume.valid, strict=True) for t in patch[known].double()]
        mean = sum(tokens) / len(tokens)
        deviation = sum(float((token - mean).square().sum()) for token in tokens)
        shares.append(math.sqrt(deviation / sum(float(token.square().sum()) for token in tokens)))
    noisy = [replace(v, tokens=torch.where(v.valid.unsqueeze(-1), v.tokens, noise)) for v in encoded]
    assert 0 < shares[0] < 1
    assert float(token_spread(noisy)["token_spread"]) == pytest.approx(sum(shares) / 2, rel=1e-4)


def test_tokens_that_are_one_have_no_spread_and_a_single_token_has_none_to_tell(model: PretrainingModel) -> None:
    (volume,) = model.encode(make_batch("image_text", [0]).volumes)
    alike = replace(volume, tokens=volume.tokens[:1, :1].expand_as(volume.tokens))
    assert float(token_spread([alike])["token_spread"]) < 1e-5
    assert float(token_spread([replace(volume, tokens=torch.zeros_like(volume.tokens))])["token_spread"]) == 0
    single = replace(volume, tokens=volume.tokens[:1, :1], valid=volume.valid[:1, :1])
    assert token_spread([single]) == {}
    both = token_spread([single, volume])["token_spread"]
    assert float(both) == pytest.approx(float(token_spread([volume])["token_spread"]), rel=1e-6)


@pytest.mark.parametrize("kind", ["image_text", "BCE", "segmentation"])
def test_every_objective_tells_it_and_learns_nothing_of_it(model: PretrainingModel, kind: str) -> None:
    batch, weight = make_batch(kind, [0, 1]), model.vision.encoder.resnet2D.layer1[0].conv1.weight
    output, encoded = model(batch), model.encode(batch.volumes)
    without = model.objective(encoded, batch)
    assert output.metrics["token_spread"].item() == pytest.approx(token_spread(encoded)["token_spread"].item())
    assert set(output.metrics) == {*without.metrics, "token_spread"}
    gradients = [torch.autograd.grad(result.loss, weight)[0] for result in (output, without)]
    torch.testing.assert_close(*gradients)
    assert float(gradients[0].abs().sum()) > 0
