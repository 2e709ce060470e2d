"""Classification by single tokens against loops over tokens and labels."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoints.pretrained_vision import OBJECTIVE_WEIGHTS, load_pretraining, save_pretraining
from models.extensions.token_classification import TokenClassification
from tests.pretraining_samples import make_batch, tiny_pretraining


def test_the_largest_cosine_is_scaled_and_shifted() -> None:
    layer = TokenClassification()
    with torch.no_grad():
        layer.log_scale.fill_(math.log(4.0))
        layer.bias.fill_(-1.0)
    logits = layer([torch.tensor([[0.1, 0.5], [0.3, -0.2]]), torch.tensor([[-1.0, 0.25]])])
    assert logits.tolist() == [pytest.approx([0.2, 1.0]), pytest.approx([-5.0, 0.0])]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["BCE", "CE"])
def test_a_volume_has_what_one_of_its_tokens_shows(kind: str) -> None:
    batch, model = make_batch(kind, [0, 1, 2]), tiny_pretraining(token_classification=0.5, running_centre=True).eval()
    model.centre.mean.normal_()
    texts, encoded, logits = model.embed_texts(batch.label_embeddings), model.encode(batch.volumes), []
    assert not all(bool(volume.valid.all()) for volume in encoded), "a volume needs padding"
    for volume in encoded:
        kept = [token for part, valid in zip(volume.tokens, volume.valid, strict=True) for token in part[valid]]
        projected = [model.image_projection(token - model.centre.mean) for token in kept]
        cosines = [[float(p @ text / p.norm()) for p in projected] for text in texts]
        logits.append([10 * max(of_label) - 3 for of_label in cosines])
    losses = []
    for row, target in zip(logits, batch.targets, strict=True):
        if kind == "CE" and target >= 0:
            losses.append(math.log(sum(math.exp(value - row[int(target)]) for value in row)))
        if kind == "BCE":
            losses += [math.log1p(math.exp(-v if t else v)) for v, t in zip(row, target, strict=True) if t == t]
    output = model(batch)
    assert float(output.metrics["of_tokens"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert output.loss.item() == pytest.approx(
        float(output.metrics["of_volumes"] + 0.5 * output.metrics["of_tokens"]), rel=1e-6
    )
    plain = tiny_pretraining(running_centre=True)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert plain.eval()(batch).loss.item() == pytest.approx(float(output.metrics["of_volumes"]), rel=1e-6)


def test_it_learns_and_works_in_bfloat16() -> None:
    batch, plain = make_batch("BCE", [0, 1]), tiny_pretraining().to(torch.bfloat16).train()
    model = tiny_pretraining(token_classification=1.0).to(torch.bfloat16).train()
    for one in (model, plain):
        output = one(batch)
        output.loss.backward()
        assert bool(output.loss.isfinite())
    assert all(float(p.grad.abs().sum()) > 0 for p in model.token_classification.parameters())
    for part in ("image_projection.weight", "text_projection.weight"):
        assert not torch.equal(model.get_parameter(part).grad, plain.get_parameter(part).grad)


def test_it_is_no_part_of_what_is_saved(tmp_path) -> None:
    folder = save_pretraining(tiny_pretraining(token_classification=1.0), tmp_path / "model")
    assert not [name for name in load_file(folder / OBJECTIVE_WEIGHTS) if "token_classification" in name]
    load_pretraining(folder)
