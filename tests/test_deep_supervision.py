"""Deep supervision: targets against loops over cells, the loss against its parts, and who learns from it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from datasets.catalog import phantom_tasks
from datasets.errors import InputError
from datasets.volume.anyres import patchify, place_mask
from models.checkpoints.pretrained_vision import load_pretraining, save_pretraining
from models.configuration import ENCODER_NAMES, vision_preset
from models.encoders.contract import VolumePatches
from models.extensions.deep_supervision import (
    BACKGROUND_LOGIT,
    FEWEST_VOXELS,
    DeepSupervision,
    cell_targets,
    volume_targets,
)
from models.masks.losses import mask_loss
from models.vision import VisionModel
from tests.pretraining_samples import make_batch, tiny_pretraining
from train_encoder_2D1D import HyperParameters
from training.pretraining.data import check_deep_only

ALONE = frozenset({"task_segmentation"})  # learned without the mask decoder


@pytest.mark.parametrize(
    ("voxels", "grids"), [((16, 8), [(8, 4), (2, 2), (1, 1)]), ((8, 8, 4), [(4, 4, 2), (1, 2, 1)])]
)
def test_targets_of_cells_equal_a_loop(voxels: tuple[int, ...], grids: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(3)
    masks = (torch.rand(3, 2, *voxels, generator=generator) > 0.8).to(torch.int8)
    masks[0, :, : voxels[0] // 2] = -1  # half of a part is padding
    masks[1] = -1
    seen = set()
    for grid, found in zip(grids, cell_targets(masks, grids), strict=True):
        sizes = [size // cells for size, cells in zip(voxels, grid, strict=True)]
        enough = min(FEWEST_VOXELS, torch.tensor(sizes).prod().item() / 4)
        for part, structure, *cell in product(range(3), range(2), *map(range, grid)):
            window = tuple(slice(c * size, (c + 1) * size) for c, size in zip(cell, sizes, strict=True))
            values = masks[(part, structure, *window)]
            truth = -1 if bool((values == -1).all()) else int((values == 1).sum() >= enough)
            assert found[(part, structure, *cell)] == truth
            seen.add(truth)
    assert seen == {-1, 0, 1}


def encode(name: str):
    config = replace(vision_preset("tiny", name), patch_max=2)
    torch.manual_seed(1)
    vision = VisionModel(config).eval()
    room = (5, 14, 24)  # the second and third axes are padded
    shape = tuple(size * grid - less for size, grid, less in zip(config.crop_size, (2, 1, 1), room, strict=True))
    patched = patchify(torch.randn(1, *shape), config.crop_size, config.patch_max)
    masks = place_mask((torch.rand(3, *shape) > 0.6).to(torch.int8), patched.placement)
    encoded = vision.encode_many([VolumePatches(patched.patches, patched.slice_marks, patched.patch_grid)])[0]
    return config, encoded, masks


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_loss_of_the_maps_is_the_mean_of_their_mask_losses(name: str) -> None:
    config, encoded, masks = encode(name)
    module, queries = DeepSupervision(config), torch.randn(3, config.query_width)
    found = module(encoded, queries, masks)["deep_maps"].item()
    *maps, _ = encoded.deep_maps()
    assert len(maps) == len(module.projections)
    losses = []
    for features, projection, bias in zip(maps, module.projections, module.biases, strict=True):
        logits = features.movedim(1, -1) @ projection(queries).T + bias  # (S, *cells, n)
        target = cell_targets(encoded.part_masks(masks), [features.shape[2:]])[0].movedim(1, -1)
        each = [mask_loss(logits[..., n].reshape(1, 1, -1), target[..., n].reshape(1, 1, -1)) for n in range(3)]
        losses.append(torch.stack([bce + dice for bce, dice in each]).mean())
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_loss_of_the_tokens_equals_a_loop(name: str) -> None:
    config, encoded, masks = encode(name)
    module, weight = DeepSupervision(config), torch.randn(config.token_width, 3) / config.token_width
    with torch.no_grad():
        module.token_log_scale.fill_(1.5)
    queries = torch.randn(3, config.query_width)
    found = module(encoded, queries, masks, lambda tokens, _: tokens @ weight)["deep_tokens"].item()
    tokens = encoded.deep_maps()[-1]
    assert tokens.shape[1] == config.token_width
    target = cell_targets(encoded.part_masks(masks), [tokens.shape[2:]])[0].movedim(1, -1)
    losses = []
    for logit, held in zip((tokens.detach().movedim(1, -1) @ weight).flatten(), target.flatten().tolist(), strict=True):
        probability = torch.sigmoid(logit * math.exp(1.5) + BACKGROUND_LOGIT)
        if held != -1:
            losses.append(-3 * math.log(probability) if held else -math.log(1 - probability))
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_a_part_and_its_masks_are_of_the_same_voxels(name: str) -> None:
    config, encoded, _ = encode(name)
    z, x, y = encoded.patch_grid
    whole = [patches * size for patches, size in zip((x, y, z), config.crop_size, strict=True)]
    place = torch.zeros(1, *whole, dtype=torch.int8)
    middle = whole[2] // 2
    place[0, -1, -1, middle] = 1  # in a slice that is not padding, in the patches of largest x and y
    parts = encoded.part_masks(place)
    assert len(parts) == len(encoded.deep_maps()[0])
    index, *_ = (int(i) for i in parts[:, 0].nonzero()[0])
    patch = (middle // config.crop_size[2]) * x * y + x * y - 1
    slices = encoded.valid.nonzero().tolist()
    expected = slices.index([patch, middle % config.crop_size[2]]) if name == "2D1D" else patch
    assert index == expected and int(parts.sum()) == 1
    inside = (-1, -1) if name == "2D1D" else (-1, -1, middle % config.crop_size[2])
    assert int(parts[(index, 0, *inside)]) == 1


@pytest.mark.parametrize("name", ENCODER_NAMES)
@pytest.mark.parametrize("absent", [[], [1], [0, 2], [0, 1, 2]])
def test_structures_that_a_volume_has_not_got_need_not_be_counted(name: str, absent: list[int]) -> None:
    _, encoded, masks = encode(name)
    masks[absent] = masks[absent].clamp(max=0)
    grids = [features.shape[2:] for features in encoded.deep_maps()]
    for found, truth in zip(
        volume_targets(encoded, masks, grids), cell_targets(encoded.part_masks(masks), grids), strict=True
    ):
        assert torch.equal(found, truth)


def test_padding_slices_take_no_part() -> None:
    _, encoded, masks = encode("2D1D")
    assert not bool(encoded.valid.all()), "the volume needs padding"
    assert all(len(features) == int(encoded.valid.sum()) for features in encoded.deep_maps())
    assert len(encoded.part_masks(masks)) == int(encoded.valid.sum())


def backward_with(part: str, model: torch.nn.Module, plain: torch.nn.Module) -> None:
    """See that the model's loss is the other's and half of `part`, which has a value, and go back from it."""
    batch = make_batch("segmentation", [0, 1])
    with_it, output = model(batch), plain(batch)
    assert set(with_it.metrics) - set(output.metrics) == {part}
    expected = output.loss.item() + 0.5 * with_it.metrics[part].item()
    assert with_it.loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(with_it.metrics[part]) > 0.1
    with_it.loss.backward()


def test_the_objective_adds_the_maps_and_the_encoder_learns_from_them() -> None:
    model, plain = tiny_pretraining(deep_supervision=0.5).eval(), tiny_pretraining().eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    backward_with("deep_maps", model, plain)
    assert all(p.grad is not None for p in model.deep_supervision.projections.parameters())
    assert model.image_projection.weight.grad is None, (
        "tokens are asked where the mask decoder is not, or where that is wanted"
    )


def test_tokens_can_be_asked_beside_the_mask_decoder() -> None:
    model = tiny_pretraining(deep_supervision=0.5, deep_tokens=True).eval()
    plain = tiny_pretraining(deep_supervision=0.5).eval()
    plain.load_state_dict(model.state_dict())
    backward_with("deep_tokens", model, plain)
    assert float(model.image_projection.weight.grad.abs().sum()) > 0


def test_the_cross_entropy_of_masks_may_weigh_more_than_their_dice() -> None:
    batch = make_batch("segmentation", [0, 1])
    model, plain = tiny_pretraining(mask_bce_weight=5.0).eval(), tiny_pretraining().eval()
    weighted, output = model(batch), plain(batch)
    assert weighted.metrics == output.metrics, "what is logged is without weights"
    expected = 5 * output.metrics["mask_bce"].item() + output.metrics["mask_dice"].item()
    assert weighted.loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_cell_of_a_map_and_of_its_target_lie_in_the_same_place() -> None:
    config = replace(vision_preset("tiny"), resnet_channels=(16, 32, 64, 64), stem_width=64, spatial_depth=2)
    torch.manual_seed(1)
    vision = VisionModel(config).eval()
    patches, marks = torch.randn(1, *config.crop_size), torch.ones(1, config.crop_size[2])
    changed = patches.clone()
    changed[0, 16:24, 40:48, 5] += 5.0  # off the diagonal
    plain, other = (vision.encode_many([VolumePatches(p, marks, (1, 1, 1))])[0] for p in (patches, changed))
    difference = (other.deep_maps()[0] - plain.deep_maps()[0]).abs().sum(1)
    mask = torch.zeros(1, *config.crop_size, dtype=torch.int8)
    mask[0, 16:24, 40:48, 5] = 1
    target = cell_targets(plain.part_masks(mask), [difference.shape[1:]])[0][:, 0]
    assert int(target.sum()) == 4 and bool(target.flatten()[difference.argmax()])


def test_it_works_in_bfloat16() -> None:
    batch, model = make_batch("segmentation", [0]), tiny_pretraining(deep_supervision=1.0).to(torch.bfloat16)
    output = model(batch)
    output.loss.backward()
    assert bool(output.loss.isfinite())


def test_a_task_can_do_without_the_mask_decoder() -> None:
    batch, model = (
        make_batch("segmentation", [0, 1]),
        tiny_pretraining(deep_supervision=0.5, deep_only_tasks=ALONE).train(),
    )
    output = model(batch)
    parts = {name: value.item() for name, value in output.metrics.items() if name != "token_spread"}
    assert set(parts) == {"deep_maps", "deep_tokens", "deep_presence"}
    assert output.loss.item() == pytest.approx(0.5 * sum(parts.values()), rel=1e-6)
    output.loss.backward()
    assert all(p.grad is not None for p in model.deep_supervision.parameters())
    assert float(model.image_projection.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in model.vision.decoder.parameters())
    assert any(p.grad is not None for p in model.vision.encoder.parameters())


def test_without_the_mask_decoder_a_volume_is_asked_what_it_holds() -> None:
    batch, model = (
        make_batch("segmentation", [0, 1]),
        tiny_pretraining(deep_supervision=1.0, deep_only_tasks=ALONE).eval(),
    )
    batch.masks[1] = torch.where(batch.masks[1] == 1, 0, batch.masks[1])  # the second volume has none of them
    images, expected = model.embed_volumes(batch.volumes), []
    for image, queries, masks in zip(images, batch.query_embeddings, batch.masks, strict=True):
        losses = []
        for query, mask in zip(queries, masks, strict=True):
            cosine = image @ model.embed_texts(query[None])[0]
            logit = cosine * model.classification_scale + model.deep_supervision.presence_bias[0]
            losses.append(torch.log1p(torch.exp(-logit if 1 in mask else logit)).item())
        expected.append(sum(losses) / len(losses))
    assert model(batch).metrics["deep_presence"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deep_only_tasks": ("phantom_classification",)}, "not one of the segmentation tasks here, phantom_segm"),
        ({"deep_only_tasks": ("phantom_segmentation",)}, "with --deep_supervision 0"),
    ],
)
def test_tasks_without_the_mask_decoder_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_deep_only(HyperParameters(**changes), phantom_tasks("phantoms"))


def test_tokens_are_asked_by_deep_supervision_alone() -> None:
    HyperParameters(deep_tokens=True, deep_supervision=2.0).validate()
    with pytest.raises(InputError, match="--deep_tokens is part of deep supervision, which has no weight"):
        HyperParameters(deep_tokens=True).validate()


def test_it_is_no_part_of_what_is_saved(tmp_path) -> None:
    saved = tiny_pretraining(deep_supervision=1.0)
    back = load_pretraining(save_pretraining(saved, tmp_path / "model"))
    assert not any("deep_supervision" in name for name in back.state_dict())
    assert torch.equal(back.image_projection.weight, saved.image_projection.weight)
