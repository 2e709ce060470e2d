"""The pretraining model: pooling, the three objectives, what each of them trains, and the folder it leaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from datasets.vocabulary import UNKNOWN_CLASS
from datasets.volume.anyres import PatchedVolume
from models.checkpoints import pretrained_vision
from models.checkpoints.pretrained_vision import PretrainedVisionError
from models.configuration import VisionConfig
from models.extensions.pretraining import pretraining_model
from models.extensions.projector_start import start_projector
from models.extensions.settings import PretrainingExtensions
from models.masks.losses import mask_loss
from models.pretraining import PretrainingModel, classification_loss, masked_mean
from models.vision import VisionModel
from tests.pretraining_samples import TEXT_WIDTH, VISION, make_batch, tiny_pretraining
from training.batches import move_to

KINDS = ("image_text", "CE", "BCE", "segmentation")


@pytest.fixture(scope="module")
def model() -> PretrainingModel:
    return tiny_pretraining().eval()


def test_masked_mean_equals_a_loop():
    tokens, valid = torch.randn(3, 4, 5), torch.rand(3, 4) > 0.4
    chosen = [tokens[p, s] for p in range(3) for s in range(4) if valid[p, s]]
    torch.testing.assert_close(masked_mean(tokens, valid), sum(chosen) / len(chosen))


@pytest.mark.parametrize("noise", [1e6, math.nan, math.inf])
def test_padding_tokens_never_reach_the_embedding(model, noise):
    (encoded,) = model.encode(make_batch("image_text", [1]).volumes)
    assert encoded.valid.any() and not encoded.valid.all()
    perturbed = torch.where(encoded.valid.unsqueeze(-1), encoded.tokens, noise).detach().requires_grad_()
    embedding = model.embed_encoded([replace(encoded, tokens=perturbed)])
    assert torch.equal(embedding, model.embed_encoded([encoded]))
    embedding[0, 0].backward()
    touched = perturbed.grad.abs().sum(-1) > 0
    assert torch.equal(touched, encoded.valid)


def test_embeddings_have_length_one_whatever_else_is_in_the_batch(model):
    volumes = make_batch("image_text", [0, 1, 2]).volumes
    with torch.no_grad():
        together = model.embed_volumes(volumes)
        alone = torch.cat([model.embed_volumes([volume]) for volume in volumes])
        texts = model.embed_texts(torch.randn(3, TEXT_WIDTH))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    for embeddings in (together, texts):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


def test_cross_entropy_with_unknown_classes():
    logits, targets = torch.randn(3, 4, requires_grad=True), torch.tensor([2, UNKNOWN_CLASS, 0])
    values = logits.tolist()
    rows = [-math.log(math.exp(values[r][t]) / sum(math.exp(x) for x in values[r])) for r, t in ((0, 2), (2, 0))]
    assert float(classification_loss(logits, targets, "CE").detach()) == pytest.approx(sum(rows) / 2, rel=1e-5)
    _nothing_known(logits, torch.full((3,), UNKNOWN_CLASS), "CE")


def test_binary_cross_entropy_with_unknown_diseases():
    logits, targets = torch.randn(2, 3, requires_grad=True), torch.tensor([[1, math.nan, 0], [math.nan, 0, 1]])
    probability = logits.detach().sigmoid()
    known = [probability[0, 0], 1 - probability[0, 2], 1 - probability[1, 1], probability[1, 2]]
    expected = sum(-math.log(p) for p in known) / 4
    assert float(classification_loss(logits, targets, "BCE").detach()) == pytest.approx(expected, rel=1e-5)
    _nothing_known(logits, torch.full((2, 3), math.nan), "BCE")


def _nothing_known(logits, targets, loss):
    logits.grad = None
    value = classification_loss(logits, targets, loss)
    value.backward()
    assert float(value.detach()) == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("loss", "share"), [("CE", None), ("BCE", None), ("CE", 0.2), ("BCE", 0.2)])
def test_classification_is_scaled_cosine_similarity(loss, share):
    model, batch = tiny_pretraining(prevalence=share).eval(), make_batch(loss, [0, 1, 2])
    with torch.no_grad():
        volumes = model.embed_volumes(batch.volumes)
        scores = model.label_scores(volumes, batch.label_embeddings)
        labels = model.text_projection(batch.label_embeddings)
        for b in range(3):
            for k in range(4):
                cosine = F.cosine_similarity(volumes[b], labels[k], dim=0)
                assert float(scores[b, k]) == pytest.approx(float(cosine), abs=1e-5)
        logits = 10 * scores + (math.log(0.2 / 0.8) if loss == "BCE" and share else 0)
        expected = classification_loss(logits, batch.targets, loss)
        torch.testing.assert_close(model(batch).loss, expected, rtol=1e-4, atol=1e-5)


def test_segmentation_uses_label_embeddings_as_queries(model):
    batch = make_batch("segmentation", [0, 1, 2])
    with torch.no_grad():
        output = model(batch)
        losses = []
        for volume, queries, masks in zip(batch.volumes, batch.query_embeddings, batch.masks, strict=True):
            (encoded,) = model.encode([volume])
            assert (masks == -1).any()
            losses.append(sum(mask_loss(model.vision.decode_masks(encoded, queries, project=False), masks)))
    torch.testing.assert_close(output.loss, sum(losses) / 3, rtol=1e-4, atol=1e-5)
    assert float(output.metrics["mask_bce"] + output.metrics["mask_dice"]) == pytest.approx(
        float(output.loss), rel=1e-5
    )


def test_image_text_is_the_contrastive_loss(model):
    batch = make_batch("image_text", [0, 1, 2])
    with torch.no_grad():
        similarity = model.embed_volumes(batch.volumes) @ model.embed_texts(batch.text_embeddings).T / 0.07
        own = torch.arange(3)
        expected = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        torch.testing.assert_close(model(batch).loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extensions", [{}, {"deep_supervision": 1.0, "token_classification": 1.0}])
def test_scales_begin_where_they_are_told_to(extensions):
    vision = VisionModel(VISION)
    model = pretraining_model(vision, PretrainingExtensions(**extensions), temperature=0.2, label_scale=20.0)
    scales = {"contrastive.log_scale": 5.0, "classification_log_scale": 20.0}
    if extensions:
        scales |= {"deep_supervision.token_log_scale": 20.0, "token_classification.log_scale": 20.0}
    begins = {name: part.exp().item() for name, part in model.named_parameters() if name in scales}
    assert begins == pytest.approx(scales)


def test_each_kind_trains_its_parts_and_together_they_train_all():
    model = tiny_pretraining().train()
    trained = {}
    for kind in KINDS:
        model.zero_grad(set_to_none=True)
        output = model(make_batch(kind, [0, 1]))
        assert output.loss.ndim == 0 and all(math.isfinite(float(value)) for value in output.metrics.values())
        output.loss.backward()
        trained[kind] = {name for name, part in model.named_parameters() if part.grad is not None}
    decoder = tuple(f"vision.{name}." for name in ("decoder", "projection_layer", "transformer_decoder"))
    assert any(name.startswith(decoder) for name in trained["segmentation"])
    assert not any(name.startswith(decoder) for kind in KINDS[:3] for name in trained[kind])
    assert not any("_projection" in name for name in trained["segmentation"])
    assert "contrastive.log_scale" in trained["image_text"] and "classification_log_scale" in trained["BCE"]
    assert set.union(*trained.values()) == {n for n, part in model.named_parameters() if part.requires_grad}


def test_wrong_batches_are_refused(model):
    batch = make_batch("image_text", [0, 1])
    with pytest.raises(ValueError, match="query_width"):
        model(replace(batch, text_embeddings=torch.randn(2, TEXT_WIDTH + 1)))
    with pytest.raises(ValueError, match="known are image_text"):
        model(replace(batch, kind="captioning"))
    batch = make_batch("segmentation", [0])
    with pytest.raises(ValueError, match="0 structures and 1 masks"):
        model(replace(batch, query_embeddings=[torch.randn(0, TEXT_WIDTH)]))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_move_as_a_whole(kind):
    moved = move_to(make_batch(kind, [0, 1]), torch.device("meta"))
    tensors = [moved.text_embeddings, moved.label_embeddings, moved.targets, *moved.query_embeddings, *moved.masks]
    tensors += [part for volume in moved.volumes for part in (volume.patches, volume.slice_marks)]
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) > 4 and all(tensor.device.type == "meta" for tensor in present)
    assert moved.sample_ids == ["sample-0", "sample-1"] and isinstance(moved.volumes[0], PatchedVolume)


# --- the folder that pretraining leaves


def other_vision(seed: int = 5, **changes) -> VisionModel:
    torch.manual_seed(seed)
    return VisionModel(VisionConfig.from_dict({**VISION.to_dict(), **changes})).eval()


def test_pretrained_weights_go_into_a_model_beside_another_language_model(model, tmp_path):
    pretrained_vision.save_pretrained_vision(model.vision, tmp_path)
    config, weights = pretrained_vision.load_pretrained_vision(tmp_path)
    assert config == VISION
    assert not any(name.startswith(("bridger", "qwen2biolord")) for name in weights)
    target = other_vision(llm_width=96)
    before = {name: part.clone() for name, part in target.state_dict().items()}
    pretrained_vision.load_into(target, tmp_path)
    for name, part in target.state_dict().items():
        fresh = name.startswith(("bridger", "qwen2biolord"))
        assert torch.equal(part, before[name] if fresh else model.vision.state_dict()[name]), name
    batch = make_batch("segmentation", [0])
    with torch.no_grad():
        (encoded,) = model.encode(batch.volumes)
        volume = batch.volumes[0]
        again = target.encode(volume.patches, volume.slice_marks, volume.patch_grid)
        masks = [
            vision.decode_masks(features, batch.query_embeddings[0], project=False)
            for vision, features in ((model.vision, encoded), (target, again))
        ]
    assert torch.equal(*masks)


@pytest.mark.parametrize(("centre", "share"), [(False, None), (True, None), (True, 0.25)])
def test_a_whole_pretraining_model_comes_back(centre, share, tmp_path):
    model = tiny_pretraining(seed=3, running_centre=centre, prevalence=share).eval()
    if centre:
        model.centre.mean.normal_()
    training = {"recipe": "phantom", "departures": {"optimizer": "Muon"}}
    pretrained_vision.save_pretraining(model, tmp_path, training)
    assert json.loads((tmp_path / "config.json").read_text())["training"] == training
    again = pretrained_vision.load_pretraining(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert share is None or float(again.classification_bias.detach()) == pytest.approx(torch.logit(torch.tensor(share)))
    for kind in KINDS:
        batch = make_batch(kind, [0, 1])
        with torch.no_grad():
            assert torch.equal(again(batch).loss, model(batch).loss)
    pretrained_vision.load_into(other_vision(llm_width=96), tmp_path)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(model, tmp_path):
    pretrained_vision.save_pretrained_vision(model.vision, tmp_path)
    file = tmp_path / "vision.safetensors"
    weights = load_file(file)
    name = "encoder.resnet2D.conv1.weight"
    for changed, message in (
        ({key: part for key, part in weights.items() if key != name}, f"key {name} is missing"),
        ({**weights, "surplus.weight": torch.zeros(1)}, "key surplus.weight is unexpected"),
        ({**weights, name: weights[name][:7]}, f"{name} has shape"),
    ):
        save_file(changed, file)
        target = other_vision()
        before = {key: part.clone() for key, part in target.state_dict().items()}
        with pytest.raises(PretrainedVisionError, match=message):
            pretrained_vision.load_into(target, tmp_path)
        assert all(torch.equal(part, before[key]) for key, part in target.state_dict().items())


def test_damaged_folders_are_refused(model, tmp_path):
    with pytest.raises(PretrainedVisionError, match=r"no config\.json"):
        pretrained_vision.load_pretrained_vision(tmp_path)
    pretrained_vision.save_pretrained_vision(model.vision, tmp_path)
    with pytest.raises(PretrainedVisionError, match=r"no objectives\.safetensors"):
        pretrained_vision.load_pretraining(tmp_path)
    file = tmp_path / "vision.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(PretrainedVisionError, match="damaged or incomplete"):
        pretrained_vision.load_pretrained_vision(tmp_path)
    file.unlink()
    with pytest.raises(PretrainedVisionError, match=r"no vision\.safetensors"):
        pretrained_vision.load_pretrained_vision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "ctinstruct-1"}))
    with pytest.raises(PretrainedVisionError, match="its format is 'ctinstruct-1'"):
        pretrained_vision.load_pretrained_vision(tmp_path)


@pytest.mark.parametrize("centre", [False, True])
def test_the_projector_begins_at_the_tokens_place_among_texts(centre, tmp_path):
    model = tiny_pretraining(running_centre=centre)
    if centre:
        model.centre.mean.normal_()
    pretrained_vision.save_pretraining(model.eval(), tmp_path)
    for llm_width in (96, 192):  # less and more than the texts' space
        vision = other_vision(llm_width=llm_width)
        untouched = vision.bridger[0].weight.detach()[TEXT_WIDTH:].clone()
        start_projector(vision, pretrained_vision.tokens_to_texts(vision, tmp_path))
        tokens = torch.randn(5, model.vision.config.token_width)
        expected = model.image_projection(tokens - model.centre.mean if centre else tokens)[:, :llm_width]
        assert torch.allclose(vision.bridger[0](tokens)[:, :TEXT_WIDTH], expected, atol=1e-5)
        assert torch.equal(vision.bridger[0].weight[TEXT_WIDTH:], untouched)
    (tmp_path / pretrained_vision.OBJECTIVE_WEIGHTS).unlink()
    with pytest.raises(PretrainedVisionError, match="no projection to texts to start from"):
        pretrained_vision.tokens_to_texts(vision, tmp_path)
