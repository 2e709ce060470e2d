"""How pretraining begins: nothing that tells volumes apart may be given up before anything is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.configuration import vision_preset
from models.extensions.pretraining import pretraining_model
from models.extensions.running_centre import RunningCentre
from models.extensions.settings import PretrainingExtensions
from models.parameters import hidden_matrices
from models.vision import VisionModel
from tests.pretraining_samples import make_batch, tiny_pretraining
from training.muon import split_for_muon
from training.pretraining.model import parameter_groups


def test_the_centre_is_a_running_mean_of_training():
    centre, mean = RunningCentre(3), None
    for step in range(4):
        batch = torch.randn(5, 3) + 10 * step
        own = [sum(column) / 5 for column in batch.T.tolist()]
        mean = own if mean is None else [0.9 * old + 0.1 * new for old, new in zip(mean, own, strict=True)]
        torch.testing.assert_close(centre(batch), batch - torch.tensor(mean))
    centre.eval()
    torch.testing.assert_close(centre(torch.zeros(1, 3)), -torch.tensor([mean]))
    torch.testing.assert_close(centre.mean, torch.tensor(mean))


def test_a_part_that_all_volumes_share_leaves_no_trace_in_the_embeddings():
    model = tiny_pretraining(running_centre=True).train()
    encoded = [volume for index in range(4) for volume in model.encode(make_batch("BCE", [index]).volumes)]
    shared = 1000 * torch.randn(encoded[0].tokens.shape[-1])
    moved = [replace(volume, tokens=volume.tokens + shared) for volume in encoded]
    with torch.no_grad():
        first = model.embed_encoded(encoded)
        model.centre.seen.zero_()
        torch.testing.assert_close(model.embed_encoded(moved), first, rtol=0, atol=1e-3)


def test_classification_starts_at_the_prevalence():
    model = tiny_pretraining(prevalence=0.2)
    assert model.classification_logits(torch.ones(1, 1), "CE").tolist() == [[pytest.approx(10.0)]], "CE has no bias"
    assert model.classification_logits(torch.zeros(1, 3), "BCE").sigmoid().tolist() == [pytest.approx([0.2] * 3)]


@pytest.mark.parametrize("encoder", ["2D1D", "ViT3D"])
def test_transformers_of_2d1d_mask_decoder_and_comparisons_have_rates_of_their_own(encoder):
    everything = PretrainingExtensions(
        running_centre=True, prevalence=0.2, deep_supervision=1.0, token_classification=1.0
    )
    model = pretraining_model(VisionModel(vision_preset("tiny", encoder)), everything)
    names = {id(part): name for name, part in model.named_parameters() if part.requires_grad}
    groups = parameter_groups(model, 2e-3, 0.1, 0.5, 3.0)
    rates = {names[id(part)]: group["lr"] for group in groups for part in group["params"]}
    assert set(rates) == set(names.values()) and sum(len(group["params"]) for group in groups) == len(names)
    shares = {
        "vision.encoder.enc_spatial_transformer.": 0.1,
        "vision.encoder.enc_temporal_transformer.": 0.1,
        "vision.decoder.": 0.5,
        "vision.projection_layer.": 0.5,
        "vision.transformer_decoder.": 0.5,
        "vision.mask_embed_proj.": 0.5,
        "image_projection.": 3.0,
        "deep_supervision.": 3.0,
        "token_classification.": 3.0,
        "classification_": 3.0,
        "contrastive.log_scale": 3.0,
    }
    for name, rate in rates.items():
        share = next((share for start, share in shares.items() if name.startswith(start)), 1.0)
        assert rate == pytest.approx(2e-3 * share), name
    assert len(groups) == (4 if encoder == "2D1D" else 3)


@pytest.mark.parametrize("optimizer", ["Muon", "AdamW"])
def test_the_matrices_of_2d1ds_transformers_can_be_left_to_adamw(optimizer):
    model = pretraining_model(VisionModel(vision_preset("tiny")))
    names = {id(part): name for name, part in model.named_parameters()}
    plain, left = (parameter_groups(model, 2e-3, 0.1, muon_attention=choice) for choice in (True, False))
    rates = [{names[id(p)]: group["lr"] for group in groups for p in group["params"]} for groups in (plain, left)]
    assert rates[0] == rates[1], "rates are the same"
    if optimizer == "AdamW":  # its groups may say what Muon would take
        stepped = torch.optim.AdamW(left, weight_decay=0.5)
        weight = model.vision.encoder.enc_spatial_transformer.layers[0][1].to_q.weight
        before, weight.grad = weight.detach().clone(), torch.zeros_like(weight)
        stepped.step()
        torch.testing.assert_close(weight.detach(), before * (1 - 2e-3 * 0.1 * 0.5))
        return
    taken = []
    for groups in (plain, left):
        split = split_for_muon(groups, hidden_matrices(model), 1.0)
        assert sorted(id(p) for g in split for p in g["params"]) == sorted(id(p) for g in groups for p in g["params"])
        taken.append({names[id(p)] for group in split if group["muon"] for p in group["params"]})
    of_transformers = {name for name in taken[0] if "_transformer." in name}
    assert len(of_transformers) > 10 and taken[1] == taken[0] - of_transformers and taken[1]


def test_tokens_keep_telling_volumes_apart_when_training_begins():
    """At one rate for all, the 2D1D transformers used to drown within some ten steps what tells slices apart."""
    model, batch = tiny_pretraining(running_centre=True, prevalence=0.5).train(), make_batch("BCE", list(range(6)))
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 0.1))
    for _ in range(20):
        loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3
    for volume in model.encode(batch.volumes):
        tokens = volume.tokens[volume.valid].detach()
        assert (tokens - tokens.mean(0)).norm(dim=1).mean() > 0.8 * tokens.mean(0).norm()
